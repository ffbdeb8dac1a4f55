// The committed OpenAPI document is the one the route table gives. To write it again after a change of routes
// or fields: TIDEPOOL_UPDATE=1 build/src/gateway/gateway_openapi_test
#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>
#include <set>
#include <sstream>

#include "gateway/gateway.h"
#include "gateway/router.h"

namespace tidepool::gateway {
namespace {

using Json = nlohmann::ordered_json;

constexpr const char* kCommitted = TIDEPOOL_SOURCE_DIR "/api/openapi.json";

TEST(OpenApi, CommittedDocumentIsCurrent) {
  const std::string current = OpenApiDocument().dump(2) + "\n";
  if (const char* update = std::getenv("TIDEPOOL_UPDATE"); update != nullptr && std::string(update) == "1") {
    std::ofstream(kCommitted) << current;
  }
  std::ifstream file(kCommitted);
  ASSERT_TRUE(file) << kCommitted;
  std::stringstream committed;
  committed << file.rdbuf();
  EXPECT_EQ(committed.str(), current) << "run this test with TIDEPOOL_UPDATE=1 and commit api/openapi.json";
}

TEST(OpenApi, HasExactlyTheRoutesThatAreServed) {
  const Json document = OpenApiDocument();
  size_t described = 0;
  std::set<std::string> ids;
  for (const auto& [path, operations] : document["paths"].items()) {
    for (const auto& [method, operation] : operations.items()) {
      ++described;
      EXPECT_TRUE(ids.insert(operation["operationId"].get<std::string>()).second) << operation["operationId"];
      // The router itself finds each described path.
      std::string target = path;
      if (const size_t open = target.find("{id}"); open != std::string::npos)
        target.replace(open, 4, "org%2Fname");
      std::string upper = method;
      for (char& c : upper) c = static_cast<char>(std::toupper(c));
      const auto match = MatchRoute(Routes(), upper, target);
      ASSERT_TRUE(match);
      ASSERT_NE(match->route, nullptr) << upper << " " << target;
      EXPECT_EQ(operation["summary"], std::string(match->route->summary));
    }
  }
  EXPECT_EQ(described, Routes().size());
}

TEST(OpenApi, DescribesFieldsOfRequests) {
  const Json document = OpenApiDocument();
  const Json& chat = document["paths"]["/v1/chat/completions"]["post"]["requestBody"]["content"]
                             ["application/json"]["schema"];
  EXPECT_EQ(chat["required"], Json::parse(R"(["model","messages"])"));
  EXPECT_EQ(chat["properties"]["temperature"]["maximum"], 2.0);
  EXPECT_EQ(chat["properties"]["top_p"]["exclusiveMinimum"], 0.0);
  EXPECT_EQ(chat["properties"]["n"]["maximum"], 128);
  EXPECT_TRUE(chat["properties"]["audio"]["description"].get<std::string>().starts_with("Refused"));
}

}  // namespace
}  // namespace tidepool::gateway
