// docs/dialects.md is what the decoders do: the document is the one that the tables give, and every field of
// every table is tried against its decoder. To write the document again: TIDEPOOL_UPDATE=1
// build/src/gateway/gateway_dialects_test
#include "gateway/dialects.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <sstream>

namespace tidepool::gateway {
namespace {

constexpr const char* kDocument = TIDEPOOL_SOURCE_DIR "/docs/dialects.md";

TEST(Dialects, CommittedDocumentIsCurrent) {
  const std::string current = DialectsDocument();
  if (const char* update = std::getenv("TIDEPOOL_UPDATE"); update != nullptr && std::string(update) == "1")
    std::ofstream(kDocument) << current;
  std::ifstream file(kDocument);
  ASSERT_TRUE(file) << kDocument;
  std::stringstream committed;
  committed << file.rdbuf();
  EXPECT_EQ(committed.str(), current) << "run this test with TIDEPOOL_UPDATE=1 and commit docs/dialects.md";
}

// The example with one more field in the table's object.
Json With(const DialectRequest& request, const FieldTable& table, std::string_view field, const Json& value) {
  Json body = Json::parse(table.example.empty() ? request.example : table.example);
  body[Json::json_pointer(std::string(table.pointer))][std::string(field)] = value;
  return body;
}

std::string HeaderName(const FieldTable& table, std::string_view field) {
  return table.place.empty() ? std::string(field) : std::string(table.place) + "." + std::string(field);
}

// "messages[2].content[0].text" -> "messages.content.text"
std::string WithoutIndices(std::string_view param) {
  std::string out;
  bool index = false;
  for (const char c : param) {
    index = index || c == '[';
    if (!index) out += c;
    if (c == ']') index = false;
  }
  return out;
}

// Of another type than the field has.
Json WrongValue(FieldType type) { return type == FieldType::kString ? Json(12345) : Json("not that"); }

TEST(Dialects, ExamplesAreTaken) {
  for (const DialectRequest& request : DialectRequests()) {
    for (const FieldTable& table : request.tables) {
      const Json body = Json::parse(table.example.empty() ? request.example : table.example);
      const auto ignored = request.decode(body);
      ASSERT_TRUE(ignored) << request.dialect << " " << table.place << ": " << ignored.error().message;
      EXPECT_TRUE(ignored->empty()) << request.dialect << " " << table.place << ": " << ignored->front();
      EXPECT_TRUE(body.contains(Json::json_pointer(std::string(table.pointer)))) << table.place;
    }
  }
}

TEST(Dialects, EveryFieldIsTreatedAsItsTableSays) {
  for (const DialectRequest& request : DialectRequests()) {
    for (const FieldTable& table : request.tables) {
      for (const Field& field : table.fields) {
        const std::string where = std::string(request.dialect) + ": " + HeaderName(table, field.name);
        SCOPED_TRACE(where);
        Json value = WrongValue(field.type);
        if (field.treatment == Treatment::kRefused && field.asks_nothing != nullptr) {
          ASSERT_FALSE(field.asks_nothing(value));
        }
        const auto ignored = request.decode(With(request, table, field.name, value));
        if (field.treatment == Treatment::kIgnored) {
          ASSERT_TRUE(ignored) << ignored.error().message;
          EXPECT_NE(std::find(ignored->begin(), ignored->end(), HeaderName(table, field.name)),
                    ignored->end());
          continue;
        }
        if (field.treatment == Treatment::kRead && field.type == FieldType::kAny) continue;
        ASSERT_FALSE(ignored);
        EXPECT_EQ(WithoutIndices(ignored.error().param), HeaderName(table, field.name));
        EXPECT_EQ(ignored.error().code,
                  field.treatment == Treatment::kRefused ? "unsupported_parameter" : "invalid_type");
      }
    }
  }
}

TEST(Dialects, UnknownFieldsAreNamedInTheHeader) {
  for (const DialectRequest& request : DialectRequests()) {
    for (const FieldTable& table : request.tables) {
      const auto ignored = request.decode(With(request, table, "frobnicate", 1));
      ASSERT_TRUE(ignored) << request.dialect << ": " << ignored.error().message;
      EXPECT_EQ(*ignored, std::vector<std::string>{HeaderName(table, "frobnicate")}) << request.dialect;
    }
  }
}

}  // namespace
}  // namespace tidepool::gateway
