// What leaves as a file: nobody gets one without a row in the audit log that says who, of what, how much.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "gateway/native/call.h"

namespace tidepool::gateway::native {

struct ExportedFile {
  std::string_view action;  // "usage.exported"
  std::string object{};     // an id; empty: the endpoint
  std::string name;         // a browser saves it so: "usage.csv"
  std::string content_type, body{};
  Json bounds = Json::object();  // what it holds, where the query does not say
  std::optional<int64_t> rows{};
  std::string next{};  // of a list that is longer: the cursor of what follows
};

// The reply with the file, once the log's row of it is stored. The row says endpoint, query, bounds, rows and
// bytes. `owner`: whose data it is, and who asks.
Result<HttpResponse> Export(const Call& call, const platform::AuditActor& owner, ExportedFile file);

// A page of a list as the API shows it; `next` empty at the end.
struct ListPage {
  Json data = Json::array();
  std::string next;
};
// A list that also leaves as a file: with format=csv all of its rows from `after` on, at most `limit`
// (100,000) and 64 MiB, as CSV; the headers Tidepool-Rows and, where there is more, Tidepool-Next-Cursor say
// how far it goes.
struct ExportedList {
  std::string_view action, name;  // "usage.exported", "usage"
  // Of the call's query, at most page.limit rows.
  Result<ListPage> (*page)(Call& call, const platform::Page& page);
  Result<std::vector<std::string>> (*columns)(Call& call);  // fields of its rows
  Result<platform::AuditActor> (*owner)(Call& call);        // as above
  int64_t rows_a_query = 1000;                              // of the file
};
void ServeList(Services& services, const std::shared_ptr<Exchange>& exchange, const ExportedList& list);

inline constexpr int64_t kMostExportedRows = 100'000;
inline constexpr size_t kMostExportedBytes = size_t{64} << 20;

// Names of an object's fields, in order.
std::vector<std::string> FieldsOf(const Json& example);

}  // namespace tidepool::gateway::native
