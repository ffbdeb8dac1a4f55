#include "gateway/native/export.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/csv.h"
#include "gateway/json_body.h"
#include "gateway/router.h"

namespace tidepool::gateway::native {
namespace {

void WriteCell(CsvWriter& csv, const Json& row, const std::string& column) {
  const auto cell = row.find(column);
  if (cell == row.end() || cell->is_null() || cell->is_discarded()) {
    csv.Skip();
  } else if (cell->is_string()) {
    csv.Text(cell->get_ref<const std::string&>());
  } else if (cell->is_structured()) {
    csv.Text(DumpJson(*cell));
  } else {
    csv.Number(DumpJson(*cell));
  }
}

Result<HttpResponse> ExportList(Call& call, const ExportedList& list) {
  TP_ASSIGN(const platform::Page asked, call.Page(kMostExportedRows, kMostExportedRows));
  TP_ASSIGN(const std::vector<std::string> columns, list.columns(call));
  TP_ASSIGN(const platform::AuditActor owner, list.owner(call));
  CsvWriter csv(columns);
  int64_t rows = 0;
  std::string next = asked.after;
  do {
    TP_ASSIGN(ListPage page,
              list.page(call, {.limit = std::min(list.rows_a_query, asked.limit - rows), .after = next}));
    for (const Json& row : page.data) {
      for (const std::string& column : columns) WriteCell(csv, row, column);
      csv.EndRow();
    }
    rows += std::ssize(page.data);
    next = std::move(page.next);
  } while (!next.empty() && rows < asked.limit && csv.bytes() < kMostExportedBytes);
  return Export(call, owner,
                {.action = list.action,
                 .name = fmt::format("{}.csv", list.name),
                 .content_type = "text/csv; charset=utf-8",
                 .body = csv.Take(),
                 .rows = rows,
                 .next = std::move(next)});
}

}  // namespace

Result<HttpResponse> Export(const Call& call, const platform::AuditActor& owner, ExportedFile file) {
  Json after;
  after["endpoint"] = call.request.route->pattern;
  after["query"] = Json::object();
  for (const auto& [name, value] : call.query()) after["query"][name] = value;
  after.update(file.bounds);
  if (file.rows) after["rows"] = *file.rows;
  after["bytes"] = file.body.size();
  if (file.rows) after["whole"] = file.next.empty();
  const std::string object = file.object.empty() ? std::string(call.request.route->pattern) : file.object;
  TP_TRY(call.audit().Record(owner, file.action, object, nullptr, after));
  HttpResponse response;
  response.content_type = std::move(file.content_type);
  response.body = std::move(file.body);
  response.headers.push_back({"Content-Disposition", fmt::format("attachment; filename=\"{}\"", file.name)});
  if (file.rows) response.headers.push_back({"Tidepool-Rows", fmt::to_string(*file.rows)});
  if (!file.next.empty()) response.headers.push_back({"Tidepool-Next-Cursor", std::move(file.next)});
  return response;
}

void ServeList(Services& services, const std::shared_ptr<Exchange>& exchange, const ExportedList& list) {
  ServeReply(services, exchange, [&](Call& call) -> Result<HttpResponse> {
    const std::string format = call.Query("format");
    if (format == "csv") return ExportList(call, list);
    if (!format.empty()) {
      return Fail(openai::BadField(
          "format",
          fmt::format("format is \"{}\"; give csv, or none for pages of JSON.", format.substr(0, 40))));
    }
    TP_ASSIGN(const platform::Page asked, call.Page());
    TP_ASSIGN(ListPage page, list.page(call, asked));
    return JsonResponse(ListJson(std::move(page.data), page.next));
  });
}

std::vector<std::string> FieldsOf(const Json& example) {
  std::vector<std::string> names;
  for (const auto& [name, value] : example.items()) names.push_back(name);
  return names;
}

}  // namespace tidepool::gateway::native
