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
  return table.place.empty() ? std::string(field) : table.place + "." + std::string(field);
}

// "messages[2].content[0].text" -> "messages[].content[].text"
std::string WithoutIndices(std::string_view param) {
  std::string out;
  for (const char c : param) {
    if (c < '0' || c > '9') out += c;
  }
  return out;
}

// The field that decides which of the tables of a place counts: it is read before a table is known.
bool Decides(const FieldTable& table, std::string_view field) {
  return table.kind.starts_with(std::string(field) + ": ");
}

bool Contains(const std::vector<std::string>& names, const std::string& name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

// Of another type than the field has.
Json WrongValue(FieldType type) { return type == FieldType::kString ? Json(12345) : Json("not that"); }
Json RightValue(FieldType type) {
  switch (type) {
    case FieldType::kBoolean: return true;
    case FieldType::kInteger:
    case FieldType::kNumber: return 1;
    case FieldType::kArray: return Json::array();
    case FieldType::kObject: return Json::object();
    case FieldType::kAny:
    case FieldType::kString: break;
  }
  return "x";
}

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
        if (field.treatment == Treatment::kAccepted || field.treatment == Treatment::kTemplate) {
          const auto taken = request.decode(With(request, table, field.name, RightValue(field.type)));
          ASSERT_TRUE(taken) << taken.error().message;
          EXPECT_EQ(Contains(*taken, HeaderName(table, field.name)), field.treatment == Treatment::kTemplate);
        }
        const auto ignored = request.decode(With(request, table, field.name, value));
        if (field.treatment == Treatment::kIgnored) {
          ASSERT_TRUE(ignored) << ignored.error().message;
          EXPECT_TRUE(Contains(*ignored, HeaderName(table, field.name)));
          continue;
        }
        if (field.treatment != Treatment::kRefused && field.type == FieldType::kAny) continue;
        ASSERT_FALSE(ignored);
        EXPECT_EQ(WithoutIndices(ignored.error().param), HeaderName(table, field.name));
        EXPECT_EQ(ignored.error().code,
                  field.treatment == Treatment::kRefused ? "unsupported_parameter" : "invalid_type");
      }
    }
  }
}

// What a table says is read, its decoder looks up in that table; and it looks up nothing that the table does
// not list.
TEST(Dialects, TheFieldsThatAreReadAreLookedUp) {
  for (const DialectRequest& request : DialectRequests()) {
    const FieldLookups lookups;
    for (const FieldTable& table : request.tables) {
      ASSERT_TRUE(request.decode(Json::parse(table.example.empty() ? request.example : table.example)));
    }
    for (const FieldTable& table : request.tables) {
      for (const Field& field : table.fields) {
        if (field.treatment != Treatment::kRead || Decides(table, field.name)) continue;
        EXPECT_TRUE(lookups.Saw(table.fields, field.name))
            << request.dialect << ": nothing looks at " << HeaderName(table, field.name);
      }
    }
    EXPECT_TRUE(lookups.unlisted().empty())
        << request.dialect << ": no table lists " << lookups.unlisted().front();
  }
}

TEST(Dialects, LookupsAreOfOneTableAndEndWithTheirRecord) {
  using enum FieldType;
  using enum Treatment;
  constexpr Field kOne[] = {{"a", kAny, kRead, ""}};
  constexpr Field kOther[] = {{"a", kAny, kRead, ""}, {"b", kAny, kRead, ""}};
  const Json body = Json::parse(R"({"a":1,"b":2})");
  {
    const FieldLookups lookups;
    FieldReader(body, kOne).Find("a");
    FieldReader(body, kOne).Has("b");
    EXPECT_TRUE(lookups.Saw(kOne, "a"));
    EXPECT_FALSE(lookups.Saw(kOther, "a"));
    EXPECT_EQ(lookups.unlisted(), std::vector<std::string>{"b"});
  }
  FieldReader(body, kOne).Find("b");
  const FieldLookups none;
  EXPECT_TRUE(none.unlisted().empty());
}

// The same parameter goes on under OpenAI's name: one that OpenAI's dialect does not read would be lost.
TEST(Dialects, BailiansParametersAreOpenAis) {
  const auto find = [](std::string_view dialect, std::string_view place) -> std::span<const Field> {
    for (const DialectRequest& request : DialectRequests()) {
      for (const FieldTable& table : request.tables) {
        if (request.dialect == dialect && table.place == place) return table.fields;
      }
    }
    return {};
  };
  const auto openai = find("OpenAI chat completions", "");
  const auto parameters = find("Bailian text generation", "parameters");
  ASSERT_FALSE(openai.empty() || parameters.empty());
  for (const Field& field : parameters) {
    if (field.treatment != Treatment::kRead || field.name == "result_format" ||
        field.name == "incremental_output")
      continue;
    const auto same = std::find_if(openai.begin(), openai.end(),
                                   [&](const Field& other) { return other.name == field.name; });
    ASSERT_NE(same, openai.end()) << field.name;
    EXPECT_EQ(same->treatment, Treatment::kRead) << field.name;
  }
}

TEST(Dialects, TheHeaderIsBounded) {
  const std::string many = [] {
    Json body = Json::parse(R"({"model":"m","messages":[]})");
    for (int i = 0; i < 3000; ++i) {
      Json message = {{"role", "user"}, {"content", Json::array()}};
      message["content"].push_back({{"type", "text"}, {"text", "x"}, {"odd" + std::to_string(i), 1}});
      body["messages"].push_back(std::move(message));
    }
    body[std::string(5000, 'x')] = 1;
    return body.dump();
  }();
  const auto ignored = DialectRequests().front().decode(Json::parse(many));
  ASSERT_TRUE(ignored);
  EXPECT_EQ(ignored->size(), 21u);
  EXPECT_EQ(ignored->at(1), "messages[].content[].odd0");
  EXPECT_LT(IgnoredHeader(*ignored).size(), 20u * 66 + 5);
}

TEST(Dialects, ATemplateMentionsWords) {
  EXPECT_TRUE(TemplateMentions("{{ message.mood }}", "mood"));
  EXPECT_TRUE(TemplateMentions("{{ message['mood'] }}", "mood"));
  EXPECT_FALSE(TemplateMentions("{{ message.moody }}{{ a_mood }}", "mood"));
  EXPECT_FALSE(TemplateMentions("", "mood"));
  EXPECT_FALSE(TemplateMentions("{{ x }}", ""));
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
