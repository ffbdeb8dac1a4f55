// Oracle: the rerank endpoints of Jina's, Cohere's and vLLM's documentation.
#include "gateway/rerank/requests.h"

#include <gtest/gtest.h>

namespace tidepool::gateway::rerank {
namespace {

std::string Problem(std::string_view fields) {
  const auto parsed = ParseRerank(Json::parse("{" + std::string(fields) + "}"));
  return parsed ? "" : parsed.error().param + ": " + parsed.error().code;
}

TEST(RerankRequest, ReadsStringsAndObjects) {
  const auto parsed = ParseRerank(Json::parse(
      R"({"model":"m","query":{"text":"q"},"documents":["a",{"text":"b","title":"x"},""],"top_n":2,
      "return_documents":true,"max_tokens_per_doc":100,"instruction":"i","max_chunks_per_doc":3,"frob":1})"));
  ASSERT_TRUE(parsed) << parsed.error().message;
  EXPECT_EQ(parsed->request.query, "q");
  EXPECT_EQ(parsed->request.documents, (std::vector<std::string>{"a", "b", ""}));
  EXPECT_EQ(parsed->request.max_document_tokens, 100);
  EXPECT_EQ(parsed->request.instruction, "i");
  EXPECT_EQ(parsed->top, 2);
  EXPECT_TRUE(parsed->return_documents);
  EXPECT_EQ(parsed->ignored, (std::vector<std::string>{"max_chunks_per_doc", "frob", "documents[].title"}));
}

TEST(RerankRequest, RefusesWithThePlace) {
  EXPECT_EQ(Problem(R"("query":"q","documents":["a"])"), "model: missing_field");
  EXPECT_EQ(Problem(R"("model":"m","documents":["a"])"), "query: missing_field");
  EXPECT_EQ(Problem(R"("model":"m","query":"","documents":["a"])"), "query: invalid_value");
  EXPECT_EQ(Problem(R"("model":"m","query":7,"documents":["a"])"), "query: invalid_type");
  EXPECT_EQ(Problem(R"("model":"m","query":"q")"), "documents: missing_field");
  EXPECT_EQ(Problem(R"("model":"m","query":"q","documents":[])"), "documents: invalid_value");
  EXPECT_EQ(Problem(R"("model":"m","query":"q","documents":"a")"), "documents: invalid_type");
  EXPECT_EQ(Problem(R"("model":"m","query":"q","documents":["a",{"image":"x"}])"),
            "documents[1].image: unsupported_parameter");
  EXPECT_EQ(Problem(R"("model":"m","query":"q","documents":["a"],"top_n":0)"), "top_n: invalid_value");
  EXPECT_EQ(Problem(R"("model":"m","query":"q","documents":["a"],"rank_fields":["t"])"),
            "rank_fields: unsupported_parameter");
}

}  // namespace
}  // namespace tidepool::gateway::rerank
