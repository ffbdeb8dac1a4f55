// A gateway with everything that accounts concern behind it (SQLite, ledger, conversations, share links,
// stored responses, deployments), and the voices that call it.
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <future>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "gateway/testing/raw_client.h"
#include "gateway/testing/server_fixture.h"
#include "platform/accounts/testing/accounts_fixture.h"
#include "platform/conversations/conversations.h"
#include "platform/conversations/shares.h"
#include "platform/ledger/accounting.h"
#include "platform/request_bodies/request_bodies.h"
#include "platform/responses/responses.h"

namespace tidepool::gateway {

inline constexpr const char* kPassword = "a long enough password";

// Who calls: headers that say so.
struct Voice {
  std::string headers;
};

class AccountsApiTest : public ServerTest {
 protected:
  void SetUp() override {
    ServerTest::SetUp();
    world_.other_floors = {platform::LedgerMigrations(), platform::DeploymentBook::Migrations(),
                           platform::Conversations::Migrations(), platform::Responses::Migrations(),
                           platform::RequestBodies::Migrations()};
    const Status opened = world_.Open();
    ASSERT_TRUE(opened) << opened.error().message;
    platform::AccountingOptions options;
    options.folder = world_.home() / "usage";
    options.ledger.post_after_ms = 5;
    options.audit = [this](store::Session& session, const platform::AuditActor& actor,
                           std::string_view action, std::string_view object, const Json& before,
                           const Json& after) {
      return world_.audit->Append(session, actor, action, object, before, after);
    };
    auto accounting =
        platform::Accounting::Open(*world_.database, clock_, world_.wall_clock, metrics_, std::move(options));
    ASSERT_TRUE(accounting) << accounting.error().message;
    accounting_ = std::move(*accounting);
    auto conversations =
        platform::Conversations::Open(*world_.database, inference_, clock_, world_.wall_clock, metrics_);
    ASSERT_TRUE(conversations) << conversations.error().message;
    conversations_ = std::move(*conversations);
    platform::ConversationSharesOptions shares;
    shares.audit = world_.audit.get();
    shares.may_share = [this](const std::string& workspace, const std::string& member) {
      return world_.accounts->MayShare(workspace, member);
    };
    shares_ = std::make_unique<platform::ConversationShares>(*world_.database, clock_, world_.wall_clock,
                                                             metrics_, std::move(shares));
    bodies_ = std::make_unique<platform::RequestBodies>(*world_.database, *world_.accounts, *world_.keys,
                                                        world_.wall_clock, metrics_);
    auto responses = platform::Responses::Open(*world_.database, *world_.keys, world_.accounts.get(),
                                               world_.wall_clock, metrics_);
    ASSERT_TRUE(responses) << responses.error().message;
    responses_ = std::move(*responses);
    auto deployments =
        platform::DeploymentBook::Open(*world_.database, world_.audit.get(), world_.wall_clock, metrics_);
    ASSERT_TRUE(deployments) << deployments.error().message;
    deployments_ = std::move(*deployments);
    operator_ = KeyVoice(world_.created_key);
  }
  void TearDown() override { gateway_.reset(); }

  void StartWithAccounts() {
    ServerHooks hooks;
    hooks.version = "0.1";
    hooks.settings = [] { return Json{{"data", Json::array()}}; };
    hooks.change_settings = [](const Json& values, const ServerHooks::RecordChange& record) -> Status {
      if (!values.contains("pool.ttft_s"))
        return tidepool::Fail(ErrorKind::kForbidden, "setting_not_editable", "not here", "home");
      return record(Json{{"pool.ttft_s", nullptr}}, values);
    };
    hooks.doctor = [] { return Json{{"cores", 2}}; };
    hooks.status = [] { return Json{{"uptime_s", 1}}; };
    hooks.accounts = world_.accounts.get();
    hooks.audit = world_.audit.get();
    hooks.accounting = accounting_.get();
    hooks.conversations = conversations_.get();
    hooks.shares = shares_.get();
    hooks.bodies = bodies_.get();
    hooks.responses = responses_.get();
    hooks.deployments = deployments_.get();
    hooks.bench = [](const Json&) -> Result<Json> { return Json::object(); };
    hooks.backup = [](const std::string&, const std::string&) -> Result<Json> { return Json::object(); };
    hooks.on_rights_changed = [this](std::function<void()> changed) {
      world_.accounts->OnChange(std::move(changed));
    };
    auto gateway =
        Gateway::Start(options_, inference_, catalog_, *world_.accounts, clock_, metrics_, std::move(hooks));
    ASSERT_TRUE(gateway) << gateway.error().message;
    gateway_ = std::move(*gateway);
    const std::string url = gateway_->url();
    port_ = static_cast<uint16_t>(std::stoi(url.substr(url.rfind(':') + 1)));
  }

  static Voice KeyVoice(const std::string& key) { return {"Authorization: Bearer " + key + "\r\n"}; }
  static Voice SessionVoice(const platform::SignedIn& in, const std::string& workspace = "") {
    return {"Cookie: other=1; tidepool_session=" + in.token + "\r\nTidepool-CSRF: " + in.csrf + "\r\n" +
            (workspace.empty() ? "" : "Tidepool-Workspace: " + workspace + "\r\n")};
  }
  static std::string Raw(const Voice& voice, std::string_view method, std::string_view target,
                         std::string_view body = {}, std::string_view extra = {}) {
    std::string out = std::string(method) + " " + std::string(target) + " HTTP/1.1\r\nHost: localhost\r\n" +
                      voice.headers + std::string(extra);
    if (!body.empty()) {
      out += "Content-Type: application/json\r\nContent-Length: " + std::to_string(body.size()) + "\r\n";
    }
    return out + "\r\n" + std::string(body);
  }
  Json Tell(const Voice& voice, std::string_view method, std::string_view target, const Json& body,
            int status, std::string_view extra = {}) {
    return AskJson(Raw(voice, method, target, body.is_null() ? "" : body.dump(), extra), status);
  }

  std::string Key(const std::string& role, const std::string& workspace = "default") {
    const Json made =
        Tell(operator_, "POST", "/api/v1/keys",
             {{"name", role}, {"service", true}, {"role", role}, {"workspace", workspace}}, 201);
    return made.value("key", "");
  }
  platform::SignedIn Join(const std::string& email, const std::string& role, const Json& workspace = nullptr,
                          const std::string& organisation = "default") {
    const Json link = Tell(
        operator_, "POST", "/api/v1/invitations",
        {{"email", email}, {"role", role}, {"workspace", workspace}, {"organisation", organisation}}, 201);
    auto in = world_.accounts->UseLink(link.value("token", ""), "", email, kPassword,
                                       world_.FromAddress("127.0.0.1"));
    EXPECT_TRUE(in) << in.error().message;
    return in.value_or(platform::SignedIn{});
  }

  // Viewer to operator, each of whom is somebody.
  std::vector<std::pair<platform::Role, Voice>> VoicesOfRoles() {
    using platform::Role;
    return {{Role::kViewer, KeyVoice(Key("viewer"))},
            {Role::kDeveloper, KeyVoice(Key("developer"))},
            {Role::kWorkspaceAdmin, KeyVoice(Key("admin"))},
            {Role::kAdmin, SessionVoice(Join("admin@x.y", "admin"))},
            {Role::kOwner, SessionVoice(Join("owner@x.y", "owner"))},
            {Role::kOperator, operator_}};
  }

  // A whole answer in a conversation, so that it is in the store when the call returns.
  Json Converse(const Voice& voice, const std::string& title) {
    const Json made =
        Tell(voice, "POST", "/api/v1/conversations", {{"title", title}, {"model", "scripted"}}, 201);
    const std::string path = "/api/v1/conversations/" + made.value("id", "");
    Tell(voice, "POST", path + "/turns", {{"content", title}}, 201);
    Json whole;
    for (int i = 0; i < 1000; ++i) {
      whole = Tell(voice, "GET", path, nullptr, 200);
      if (whole["turns"].size() == 2 && whole["turns"][1]["state"] == "done") break;
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
    EXPECT_EQ(whole["turns"][1]["state"], "done") << whole.dump();
    return whole;
  }
  // A request that the ledger has; gives its row's X-Request-Id.
  std::string Meter(const std::string& organisation, const std::string& workspace, const std::string& key,
                    const std::string& model, int64_t prompt = 10) {
    platform::AdmissionRequest request;
    request.payer = {organisation, workspace, key, ""};
    request.model = request.model_version = model;
    request.prompt_tokens = prompt;
    request.max_output_tokens = 10;
    const std::string id = RandomId("req-");
    auto meter = accounting_->ledger().Admit(request, id, "chat.completions");
    EXPECT_TRUE(meter) << meter.error().message;
    if (!meter) return id;
    (*meter)->Count({.prompt = prompt, .output = 5}, 1000);
    std::promise<Status> durable;
    (*meter)->Close(platform::UsageStatus::kDone, "", {}, [&](const Status& s) { durable.set_value(s); });
    EXPECT_TRUE(durable.get_future().get());
    EXPECT_TRUE(accounting_->ledger().Flush(10));
    return id;
  }

  // As if that request, which the ledger has, had said so: the workspace stores bodies.
  void StoreBody(const std::string& workspace, const std::string& request_id, const std::string& prompt,
                 const std::string& answer = "answered") {
    platform::Principal who;
    who.workspace = workspace;
    const auto recording = bodies_->Begin(who, Json{{"prompt", prompt}}.dump());
    ASSERT_NE(recording, nullptr) << workspace << " stores none";
    recording->Text(0, answer, "");
    const auto row = accounting_->reports().FindRequest({}, request_id);
    ASSERT_TRUE(row) << row.error().message;
    recording->Keep(row->id);
    ASSERT_TRUE(bodies_->Flush(10));
  }

  platform::AccountsWorld world_;
  std::unique_ptr<platform::Accounting> accounting_;
  std::unique_ptr<platform::Conversations> conversations_;
  std::unique_ptr<platform::ConversationShares> shares_;
  std::unique_ptr<platform::RequestBodies> bodies_;
  std::unique_ptr<platform::Responses> responses_;
  std::unique_ptr<platform::DeploymentBook> deployments_;
  Voice operator_;
};

}  // namespace tidepool::gateway
