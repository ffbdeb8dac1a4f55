// Reranking over real sockets, with the platform below it scripted: a document's score is its length / 10.
#include <gtest/gtest.h>

#include "gateway/testing/raw_client.h"
#include "gateway/testing/server_fixture.h"

namespace tidepool::gateway {
namespace {

class RerankTest : public ServerTest {};

TEST_F(RerankTest, TheBestComesFirst) {
  Start();
  const std::string ask =
      R"({"model":"scripted","query":"q","documents":["aa","aaaa",{"text":"a"},"bbbb"],"user":"x")";
  const RawReply reply = Ask(Post("/v1/rerank", ask + R"(,"top_n":3,"return_documents":true})"));
  ASSERT_EQ(reply.status, 200) << reply.body;
  EXPECT_EQ(reply.headers.at("tidepool-ignored"), "user");
  const Json body = Json::parse(reply.body);
  EXPECT_EQ(body["model"], "scripted");
  EXPECT_EQ(body["results"], Json::parse(R"([{"index":1,"relevance_score":0.4,"document":{"text":"aaaa"}},
      {"index":3,"relevance_score":0.4,"document":{"text":"bbbb"}},
      {"index":0,"relevance_score":0.2,"document":{"text":"aa"}}])"));
  EXPECT_EQ(body["usage"], Json::parse(R"({"prompt_tokens":15,"total_tokens":15})"));
  for (const char* path :
       {"/v2/rerank", "/rerank", "/compatible-api/v1/reranks", "/compatible-mode/v1/rerank"}) {
    const Json all = AskJson(Post(path, ask + "}"));
    ASSERT_EQ(all["results"].size(), 4u) << path;
    EXPECT_EQ(all["results"][3], Json::parse(R"({"index":2,"relevance_score":0.1})"));
  }
  EXPECT_EQ(inference_.last_rerank().principal.key_id, "tp-test");
}

TEST_F(RerankTest, AnInstructionIsIgnoredByModelsThatReadNone) {
  Start();
  const std::string ask = R"({"model":"scripted","query":"q","documents":["aa"])";
  EXPECT_EQ(Ask(Post("/v1/rerank", ask + R"(,"instruction":"i"})")).headers.at("tidepool-ignored"),
            "instruction");
  EXPECT_EQ(Ask(Post("/v1/rerank", ask + R"(,"instruct":"i"})")).headers.at("tidepool-ignored"), "instruct");
  EXPECT_EQ(Ask(Post("/v1/rerank", ask + R"(,"instruct":""})")).headers.count("tidepool-ignored"), 0u);
  EXPECT_EQ(Ask(Post("/api/v1/services/rerank/text-rerank/text-rerank",
                     R"({"model":"scripted","input":{"query":"q","documents":["a"]},
                         "parameters":{"instruct":"i"}})"))
                .headers.at("tidepool-ignored"),
            "parameters.instruct");
}

TEST_F(RerankTest, RefusalsInEachShape) {
  Start();
  const Json refused =
      AskJson(Post("/v1/rerank", R"({"model":"chatty","query":"q","documents":["a"]})"), 400);
  EXPECT_EQ(refused["error"]["code"], "rerank_unsupported");
  EXPECT_EQ(AskJson(Post("/v1/rerank", R"({"model":"scripted","query":"q"})"), 400)["error"]["param"],
            "documents");
  const std::string path = "/api/v1/services/rerank/text-rerank/text-rerank";
  EXPECT_EQ(AskJson(Post(path, R"({"model":"chatty","input":{"query":"q","documents":["a"]}})"), 400)["code"],
            "InvalidParameter");
  EXPECT_EQ(AskJson(Post(path, R"({"model":"scripted","input":{"query":"q","documents":[7]}})"), 400)["code"],
            "InvalidParameter");
  const Json good = AskJson(Post(path, R"({"model":"scripted","input":{"query":"q","documents":["a","bb"]},
      "parameters":{"top_n":1,"return_documents":true,"instruct":"i"}})"));
  EXPECT_EQ(good["output"]["results"],
            Json::parse(R"([{"index":1,"relevance_score":0.2,"document":{"text":"bb"}}])"));
  EXPECT_EQ(good["usage"]["total_tokens"], 5);
  EXPECT_EQ(inference_.last_rerank().instruction, "i");
}

}  // namespace
}  // namespace tidepool::gateway
