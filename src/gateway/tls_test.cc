// The gateway over TLS, with a certificate made for the test and OpenSSL as the client.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>

#include "gateway/testing/certificate.h"
#include "gateway/testing/server_fixture.h"
#include "gateway/testing/tls_client.h"

namespace tidepool::gateway {
namespace {

using ::testing::HasSubstr;

constexpr std::string_view kChat = R"({"model":"scripted","messages":[{"role":"user","content":"hi"}]})";
constexpr std::string_view kStream =
    R"({"model":"scripted","stream":true,"messages":[{"role":"user","content":"hi"}]})";

class TlsTest : public ServerTest {
 protected:
  void SetUp() override {
    ServerTest::SetUp();
    options_.tls_certificate = files_.certificate();
    options_.tls_key = files_.key();
  }
  Error StartError() {
    const auto gateway = Gateway::Start(options_, inference_, catalog_, keys_, clock_, metrics_, {});
    EXPECT_FALSE(gateway);
    return gateway ? Error{} : gateway.error();
  }

  TestCertificate files_;
};

TEST_F(TlsTest, AnswersOverHttps) {
  Start();
  EXPECT_TRUE(gateway_->url().starts_with("https://127.0.0.1:")) << gateway_->url();
  TlsClient client(port_, files_.certificate());
  ASSERT_TRUE(client.connected());
  for (int i = 0; i < 3; ++i) {
    client.Send(Post("/v1/chat/completions", kChat));
    const RawReply reply = client.ReadReply();
    EXPECT_EQ(reply.status, 200);
    EXPECT_THAT(reply.body, HasSubstr("hello"));
  }
  client.Send("GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
  EXPECT_EQ(client.ReadReply().status, 200);
  EXPECT_TRUE(client.ReadEnd());
  EXPECT_TRUE(client.ended_cleanly());
}

TEST_F(TlsTest, TheCertificateIsThatOfItsNameOnly) {
  Start();
  const TestCertificate other;
  EXPECT_FALSE(TlsClient(port_, other.certificate()).connected());
  EXPECT_FALSE(TlsClient(port_, files_.certificate(), "elsewhere.example").connected());
  EXPECT_TRUE(TlsClient(port_, files_.certificate()).connected());
}

TEST_F(TlsTest, Streams) {
  Start();
  std::atomic<bool> go_on{false};
  inference_.SetScript([&](FakeRun& run) {
    run.Token("first");
    while (!go_on) std::this_thread::sleep_for(std::chrono::milliseconds(2));
    for (int i = 0; i < 2000; ++i) run.Token(std::string(100, 'w'));  // more than a record
    run.Say("last");
  });
  TlsClient client(port_, files_.certificate());
  client.Send(Post("/v1/chat/completions", kStream));
  ASSERT_TRUE(client.ReadUntil("first")) << "text comes while the answer is being made";
  go_on = true;
  const RawReply reply = client.ReadReply();
  EXPECT_EQ(reply.status, 200);
  EXPECT_GT(reply.body.size(), 200'000u);
  EXPECT_THAT(reply.body, HasSubstr("last"));
  EXPECT_TRUE(reply.body.ends_with("data: [DONE]\n\n"));
}

// To an HTTP/1.0 client the end of the connection is the end of the answer: it must be told from a cut.
TEST_F(TlsTest, TheEndIsSaid) {
  Start();
  TlsClient client(port_, files_.certificate());
  std::string request = Post("/v1/chat/completions", kStream);
  request.replace(request.find("HTTP/1.1"), 8, "HTTP/1.0");
  client.Send(request);
  ASSERT_TRUE(client.ReadEnd());
  EXPECT_TRUE(client.received().ends_with("data: [DONE]\n\n"));
  EXPECT_TRUE(client.ended_cleanly());
}

TEST_F(TlsTest, AClientThatLeavesCancelsItsWork) {
  Start();
  inference_.SetScript([](FakeRun& run) {
    run.Token("first");
    EXPECT_TRUE(run.WaitCancelled(20));
    run.Done(compute::Usage{});
  });
  {
    TlsClient client(port_, files_.certificate());
    client.Send(Post("/v1/chat/completions", kStream));
    ASSERT_TRUE(client.ReadUntil("first"));
  }
  EXPECT_TRUE(inference_.WaitRunning(0, 20));
  EXPECT_EQ(inference_.cancelled(), 1);
}

TEST_F(TlsTest, ARefusedUploadReadsItsRefusal) {
  options_.max_body_bytes = 1 << 20;
  Start();
  for (int i = 0; i < 10; ++i) {
    TlsClient client(port_, files_.certificate());
    client.Send(Post("/v1/chat/completions", std::string(2 << 20, ' ')));
    EXPECT_EQ(client.ReadReply().status, 413) << i;
  }
}

TEST_F(TlsTest, PlainHttpOnTheTlsPortIsEndedCleanly) {
  Start();
  for (int i = 0; i < 10; ++i) {
    RawClient plain(port_);
    plain.Send(Post("/v1/chat/completions", std::string(30'000, ' ')));
    EXPECT_TRUE(plain.ReadEnd());
    EXPECT_EQ(plain.ReadReply().status, 0);
    EXPECT_EQ(plain.last_error(), 0) << "an end, not a reset";
  }
  RawClient noise(port_);
  noise.Send(std::string("\x16\x03\x01\x00\x05garbage", 12));
  EXPECT_TRUE(noise.ReadEnd());
  TlsClient client(port_, files_.certificate());
  ASSERT_TRUE(client.connected()) << "the server lives";
  client.Send(Get("/health"));
  EXPECT_EQ(client.ReadReply().status, 200);
}

TEST_F(TlsTest, AHandshakeThatStallsIsDropped) {
  options_.header_timeout_s = 0.5;
  options_.idle_timeout_s = 3600;
  options_.body_timeout_s = 3600;
  Start();
  RawClient silent(port_);
  RawClient half(port_);
  half.Send(std::string_view("\x16\x03\x01\x02\x00\x01\x00", 7));  // a ClientHello's first bytes
  TlsClient idle(port_, files_.certificate());                     // a handshake, then no request
  ASSERT_TRUE(idle.connected());
  EXPECT_TRUE(silent.ReadEnd());
  EXPECT_TRUE(half.ReadEnd());
  EXPECT_TRUE(idle.ReadEnd());
  TlsClient client(port_, files_.certificate());
  client.Send(Get("/health"));
  EXPECT_EQ(client.ReadReply().status, 200);
}

// ---- start-up --------------------------------------------------------------------------------------------

TEST_F(TlsTest, BadFilesAreErrorsThatSayWhatToDo) {
  const std::string missing = (files_.folder() / "missing.pem").string();
  const std::string junk = (files_.folder() / "junk.pem").string();
  std::ofstream(junk) << "not PEM at all";
  for (const std::string& path : {missing, junk, files_.key()}) {
    options_.tls_certificate = path;
    options_.tls_key = files_.key();
    const Error error = StartError();
    EXPECT_EQ(error.kind, ErrorKind::kInvalid);
    EXPECT_EQ(error.param, "http.tls_certificate");
    EXPECT_THAT(error.message, HasSubstr("http.tls_certificate"));
    EXPECT_THAT(error.message, HasSubstr(path));
    EXPECT_THAT(error.message, HasSubstr("Give a PEM file"));
  }
  const TestCertificate other;
  for (const std::string& path : {missing, junk, other.key(), files_.encrypted_key()}) {
    options_.tls_certificate = files_.certificate();
    options_.tls_key = path;
    const Error error = StartError();
    EXPECT_EQ(error.kind, ErrorKind::kInvalid);
    EXPECT_EQ(error.param, "http.tls_key");
    EXPECT_THAT(error.message, HasSubstr("http.tls_key"));
    EXPECT_THAT(error.message, HasSubstr(path));
    EXPECT_THAT(error.message, HasSubstr("Give the PEM file"));
  }
  options_.tls_key.clear();
  EXPECT_EQ(StartError().param, "http.tls_key");
}

TEST_F(TlsTest, BeyondLoopbackNeedsTlsAProxyOrTheFlag) {
  options_.listen = "0.0.0.0:0";
  const auto starts = [&] {
    const auto gateway = Gateway::Start(options_, inference_, catalog_, keys_, clock_, metrics_, {});
    EXPECT_TRUE(gateway || gateway.error().code == "plain_http_beyond_loopback");
    return gateway.has_value();
  };
  Start();
  TlsClient client(port_, files_.certificate());
  client.Send(Get("/v1/models"));
  EXPECT_EQ(client.ReadReply().status, 200);

  options_.tls_certificate.clear();
  options_.tls_key.clear();
  EXPECT_FALSE(starts());
  options_.trusted_proxy = "10.0.0.0/8";
  EXPECT_TRUE(starts());
  options_.trusted_proxy.clear();
  options_.allow_plain_http = true;
  EXPECT_TRUE(starts());
  options_.open = true;  // never without keys
  const auto open = Gateway::Start(options_, inference_, catalog_, keys_, clock_, metrics_, {});
  ASSERT_FALSE(open);
  EXPECT_EQ(open.error().code, "open_beyond_loopback");
}

}  // namespace
}  // namespace tidepool::gateway
