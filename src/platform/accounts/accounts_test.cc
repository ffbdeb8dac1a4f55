#include "platform/accounts/accounts.h"

#include <gmock/gmock.h>

#include <atomic>
#include <thread>

#include "platform/accounts/keys.h"
#include "platform/accounts/testing/accounts_fixture.h"
#include "platform/store/testing/postgresql_server.h"

namespace tidepool::platform {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr const char* kPassword = "a long enough password";

class AccountsTest : public ::testing::TestWithParam<store::Backend> {
 protected:
  void SetUp() override {
    std::string postgresql;
    ASSERT_NO_FATAL_FAILURE(FreshDatabase(postgresql));
    world_ = std::make_unique<AccountsWorld>(postgresql);
    const Status opened = world_->Open();
    ASSERT_TRUE(opened) << opened.error().message;
    admin_ = world_->created_key;
  }
  // An empty database of PostgreSQL's; nothing where SQLite is tested.
  static void FreshDatabase(std::string& connection) {
    if (GetParam() != store::Backend::kPostgresql) return;
    static auto server = store::PostgresqlServer::Start();
    ASSERT_TRUE(server) << server.error().message;
    const auto made = (*server)->MakeDatabase();
    ASSERT_TRUE(made) << made.error().message;
    connection = *made;
  }
  Accounts& accounts() { return *world_->accounts; }
  Caller Operator() { return world_->CallerOf(admin_); }
  CreatedKey ServiceKey(const std::string& role = "developer", const std::string& workspace = "") {
    KeySpec spec;
    spec.name = "service";
    spec.service = true;
    spec.role = role;
    spec.workspace = workspace;
    auto made = accounts().CreateKey(Operator(), spec);
    EXPECT_TRUE(made) << made.error().message;
    return made.value_or(CreatedKey{});
  }
  SignedIn Owner() {
    const auto link = accounts().MakeSetupLink();
    EXPECT_TRUE(link && *link);
    auto in = accounts().UseLink((*link)->token, "owner@example.org", "Olga", kPassword,
                                 world_->FromAddress("127.0.0.1"));
    EXPECT_TRUE(in) << in.error().message;
    return in.value_or(SignedIn{});
  }
  SignedIn Join(const Caller& by, const std::string& email, const std::string& role,
                const std::optional<std::string>& workspace) {
    const auto link = accounts().Invite(by, email, role, workspace, "");
    EXPECT_TRUE(link) << link.error().message;
    if (!link) return {};
    auto in =
        accounts().UseLink(link->token, "", email.substr(0, 3), kPassword, world_->FromAddress("127.0.0.1"));
    EXPECT_TRUE(in) << in.error().message;
    return in.value_or(SignedIn{});
  }
  std::string CodeOf(const Result<Principal>& who) { return who ? "" : who.error().code; }

  std::unique_ptr<AccountsWorld> world_;
  std::string admin_;
};

TEST_P(AccountsTest, WrongKeysAreToldApart) {
  EXPECT_EQ(CodeOf(world_->Who("")), "missing_api_key");
  EXPECT_EQ(CodeOf(world_->Who("sk-something")), "invalid_api_key");
  EXPECT_THAT(world_->Who(admin_.substr(0, 40)).error().message, HasSubstr("mistyped"));
  EXPECT_THAT(world_->Who(MakeKey()).error().message, HasSubstr("not known"));
  EXPECT_EQ(CodeOf(world_->Who(std::string(100'000, 'x'))), "invalid_api_key");
}

TEST_P(AccountsTest, AKeyIsStoredAsAHashAndShownOnce) {
  const CreatedKey made = ServiceKey();
  EXPECT_TRUE(KeyLooksValid(made.secret));
  const auto rows =
      world_->database->Get<store::Rows>([](store::Session& s) { return s.Query("SELECT * FROM api_keys"); });
  ASSERT_TRUE(rows);
  for (const store::Row& row : *rows) {
    for (size_t i = 0; i < row.size(); ++i) {
      EXPECT_EQ(row.Text(i).find(made.secret.substr(10)), std::string::npos);
      EXPECT_EQ(row.Bytes(i).find(made.secret.substr(10)), std::string::npos);
    }
  }
  EXPECT_EQ(made.key.prefix, made.secret.substr(0, 9));
}

TEST_P(AccountsTest, ARevokedKeyIsRefusedAtOnceAndForGood) {
  const CreatedKey made = ServiceKey();
  const auto who = world_->Who(made.secret);
  ASSERT_TRUE(who);
  EXPECT_TRUE(accounts().StillValid(*who));
  std::atomic<int> changes{0};
  accounts().OnChange([&] { ++changes; });
  ASSERT_TRUE(accounts().RevokeKey(Operator(), made.key.id));
  EXPECT_GE(changes, 1) << "streams are to be cut";
  EXPECT_FALSE(accounts().StillValid(*who));
  EXPECT_EQ(CodeOf(world_->Who(made.secret)), "key_revoked");
  world_->wall_clock.Set(kTestTime_ms - 1'000'000'000);  // a clock that jumps back revives nothing
  EXPECT_EQ(CodeOf(world_->Who(made.secret)), "key_revoked");
  ASSERT_TRUE(world_->Open());
  EXPECT_EQ(CodeOf(world_->Who(made.secret)), "key_revoked");
}

TEST_P(AccountsTest, AChangeByAnotherProcessCountsWithinASecond) {
  const CreatedKey made = ServiceKey();
  ASSERT_TRUE(world_->Who(made.secret));
  ASSERT_TRUE(world_->database->Write([&](store::Session& s) -> Status {
    TP_TRY(s.Execute("UPDATE api_keys SET revoked_ms = 1 WHERE id = $1", {made.key.id}));
    return s.Execute("UPDATE accounts_state SET number = number + 1 WHERE name = 'version'").map([](int64_t) {
    });
  }));
  const auto start = std::chrono::steady_clock::now();
  while (world_->Who(made.secret) && std::chrono::steady_clock::now() - start < std::chrono::seconds(20))
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  EXPECT_EQ(CodeOf(world_->Who(made.secret)), "key_revoked");
}

TEST_P(AccountsTest, KeysExpireAndRotateWithAnOverlap) {
  KeySpec spec;
  spec.name = "short";
  spec.service = true;
  spec.expires_ms = kTestTime_ms + 60'000;
  spec.models = {"smollm2:*"};
  const auto made = accounts().CreateKey(Operator(), spec);
  ASSERT_TRUE(made) << made.error().message;
  EXPECT_TRUE(world_->Who(made->secret));
  world_->wall_clock.Advance(60'000);
  EXPECT_EQ(CodeOf(world_->Who(made->secret)), "key_expired");
  EXPECT_EQ(accounts().RotateKey(Operator(), made->key.id, 10).error().code, "key_revoked");
  spec.expires_ms = kTestTime_ms;
  EXPECT_EQ(accounts().CreateKey(Operator(), spec).error().param, "expires_at");
  spec.expires_ms.reset();
  const auto old = accounts().CreateKey(Operator(), spec);
  ASSERT_TRUE(old);
  const auto fresh = accounts().RotateKey(Operator(), old->key.id, 3600);
  ASSERT_TRUE(fresh) << fresh.error().message;
  EXPECT_NE(fresh->secret, old->secret);
  EXPECT_THAT(fresh->key.models, ElementsAre("smollm2:*"));
  EXPECT_TRUE(world_->Who(old->secret)) << "the overlap";
  EXPECT_TRUE(world_->Who(fresh->secret));
  EXPECT_EQ(accounts().FindKey(Operator(), old->key.id)->replaced_by, fresh->key.id);
  world_->wall_clock.Advance(3'600'000);
  EXPECT_EQ(CodeOf(world_->Who(old->secret)), "key_expired");
  EXPECT_TRUE(world_->Who(fresh->secret));
  for (const double bad : {-1.0, 1e9, std::nan("")})
    EXPECT_EQ(accounts().RotateKey(Operator(), fresh->key.id, bad).error().param, "overlap_s");
}

TEST_P(AccountsTest, ScopesAreCheckedAndCarried) {
  KeySpec spec;
  spec.name = "scoped";
  spec.service = true;
  spec.models = {"qwen3:*", "smollm2:135m"};
  spec.endpoints = {"/v1/chat/completions", "/v1/models*"};
  spec.networks = {"10.0.0.0/8", "2001:db8::/32"};
  const auto made = accounts().CreateKey(Operator(), spec);
  ASSERT_TRUE(made) << made.error().message;
  const auto who = world_->Who(made->secret, "10.1.2.3");
  ASSERT_TRUE(who);
  EXPECT_TRUE(who->MayUseModel("qwen3:4b"));
  EXPECT_TRUE(who->MayUseModel("smollm2:135m"));
  EXPECT_FALSE(who->MayUseModel("smollm2:1.7b"));
  EXPECT_EQ(CodeOf(world_->Who(made->secret, "192.0.2.1")), "address_not_allowed");
  EXPECT_EQ(CodeOf(world_->Who(made->secret, "")), "address_not_allowed");
  EXPECT_TRUE(accounts().StillValid(*who));
  spec.networks = {"10.0.0.1/8"};
  EXPECT_EQ(accounts().CreateKey(Operator(), spec).error().param, "networks");
  spec.networks = {};
  spec.endpoints = {"v1/models"};
  EXPECT_EQ(accounts().CreateKey(Operator(), spec).error().param, "endpoints");
  spec.endpoints = {};
  spec.models = {"a*b"};
  EXPECT_EQ(accounts().CreateKey(Operator(), spec).error().param, "models");
  spec.models = std::vector<std::string>(101, "m");
  EXPECT_EQ(accounts().CreateKey(Operator(), spec).error().param, "models");
}

TEST_P(AccountsTest, AScopedKeyMakesNoKeys) {
  KeySpec spec;
  spec.name = "scoped admin";
  spec.service = true;
  spec.role = "admin";
  spec.models = {"smollm2:*"};
  const auto scoped = accounts().CreateKey(Operator(), spec);
  ASSERT_TRUE(scoped);
  const Caller caller = world_->CallerOf(scoped->secret);
  spec.models = {};
  EXPECT_EQ(accounts().CreateKey(caller, spec).error().code, "scoped_key");
  KeyChange widen;
  widen.models = std::vector<std::string>{};
  EXPECT_EQ(accounts().ChangeKey(caller, scoped->key.id, widen).error().code, "scoped_key");
  EXPECT_EQ(accounts().RotateKey(caller, scoped->key.id, 0).error().code, "scoped_key");
}

TEST_P(AccountsTest, NobodyGrantsMoreThanTheyHave) {
  const Caller admin = world_->CallerOf(ServiceKey("admin").secret);
  const Caller developer = world_->CallerOf(ServiceKey("developer").secret);
  KeySpec spec;
  spec.name = "x";
  spec.service = true;
  spec.role = "operator";
  EXPECT_EQ(accounts().CreateKey(admin, spec).error().code, "role_too_low");
  spec.role = "admin";
  EXPECT_TRUE(accounts().CreateKey(admin, spec));
  spec.role = "viewer";
  EXPECT_EQ(accounts().CreateKey(developer, spec).error().code, "role_too_low");
  spec.role = "emperor";
  EXPECT_EQ(accounts().CreateKey(admin, spec).error().param, "role");
  EXPECT_EQ(accounts().Invite(admin, "a@b.c", "admin", std::nullopt, "").error().code, "role_too_low");
  EXPECT_EQ(accounts().Invite(admin, "a@b.c", "owner", "default", "").error().param, "role");
}

// A new secret is the key itself: whoever gets it acts with that key's role, or as the person whose key it
// is.
TEST_P(AccountsTest, NobodyTakesAKeyOverThatMayDoMore) {
  const Caller admin = world_->CallerOf(ServiceKey("admin").secret);
  const std::string first = Operator().principal.key;
  EXPECT_EQ(accounts().RotateKey(admin, first, 0).error().code, "role_too_low");
  KeyChange named;
  named.name = "mine";
  EXPECT_EQ(accounts().ChangeKey(admin, first, named).error().code, "role_too_low");
  EXPECT_EQ(accounts().RevokeKey(admin, ServiceKey("operator").key.id).error().code, "role_too_low");
  EXPECT_TRUE(world_->Who(admin_)) << "nothing has changed";
  EXPECT_TRUE(accounts().RotateKey(admin, ServiceKey("admin").key.id, 0)) << "what may do no more";
}

TEST_P(AccountsTest, ThePersonWhoseKeyItIsRotatesItAndNobodyElse) {
  const SignedIn owner = Owner();
  const Caller op = world_->SessionCaller(owner);
  const SignedIn dev = Join(op, "dev@example.org", "developer", "default");
  const Caller person = world_->SessionCaller(dev);
  KeySpec spec;
  spec.name = "own";
  const auto own = accounts().CreateKey(person, spec);
  ASSERT_TRUE(own) << own.error().message;
  const Caller admin = world_->CallerOf(ServiceKey("admin").secret);
  for (const Caller& other : {admin, op})
    EXPECT_EQ(accounts().RotateKey(other, own->key.id, 0).error().code, "not_your_key");
  EXPECT_TRUE(accounts().RotateKey(person, own->key.id, 0));
  EXPECT_TRUE(accounts().RevokeKey(admin, own->key.id)) << "to stop one is an admin's duty";
}

TEST_P(AccountsTest, AKeyLimitedToNetworksOrATimeMakesNoneWithoutLimits) {
  for (const bool by_time : {false, true}) {
    KeySpec spec;
    spec.name = "limited";
    spec.service = true;
    spec.role = "admin";
    if (by_time) {
      spec.expires_ms = world_->wall_clock.unix_ms() + 60'000;
    } else {
      spec.networks = {"127.0.0.0/8"};
    }
    const auto limited = accounts().CreateKey(Operator(), spec);
    ASSERT_TRUE(limited) << limited.error().message;
    const Caller caller = world_->CallerOf(limited->secret);
    KeySpec free;
    free.name = "free";
    free.service = true;
    EXPECT_EQ(accounts().CreateKey(caller, free).error().code, "scoped_key");
    KeyChange widen;
    widen.networks = std::vector<std::string>{};
    widen.expires_ms = std::optional<int64_t>{};
    EXPECT_EQ(accounts().ChangeKey(caller, limited->key.id, widen).error().code, "scoped_key");
    EXPECT_EQ(accounts().Invite(caller, "a@b.c", "admin", "default", "").error().code, "scoped_key");
    const auto fresh = accounts().RotateKey(caller, limited->key.id, 0);
    ASSERT_TRUE(fresh) << "itself, with the same limits: " << fresh.error().message;
    EXPECT_EQ(fresh->key.networks, spec.networks);
    EXPECT_EQ(fresh->key.expires_ms, spec.expires_ms);
  }
}

TEST_P(AccountsTest, TheSetupLinkMakesTheOwnerOnce) {
  auto link = accounts().MakeSetupLink();
  ASSERT_TRUE(link && *link);
  const std::string stale = (*link)->token;
  link = accounts().MakeSetupLink();
  ASSERT_TRUE(link && *link);
  const AuditActor here = world_->FromAddress("127.0.0.1");
  EXPECT_EQ(accounts().UseLink(stale, "a@b.c", "A", kPassword, here).error().code, "link_not_found")
      << "a newer one replaced it";
  const std::string token = (*link)->token;
  EXPECT_EQ(accounts().UseLink(token, "a@b.c", "A", "short", here).error().param, "password");
  EXPECT_EQ(accounts().UseLink(token, "nobody", "A", kPassword, here).error().param, "email");
  EXPECT_EQ(accounts().UseLink(token, "a@b.c", "", kPassword, here).error().param, "name");
  const auto in = accounts().UseLink(token, "A@b.c", "A", kPassword, here);
  ASSERT_TRUE(in) << in.error().message;
  EXPECT_TRUE(in->user.is_operator);
  EXPECT_EQ(in->user.email, "a@b.c");
  EXPECT_EQ(accounts().UseLink(token, "c@d.e", "C", kPassword, here).error().code, "link_not_found");
  link = accounts().MakeSetupLink();
  ASSERT_TRUE(link);
  EXPECT_FALSE(*link) << "there is an owner now";
  EXPECT_EQ(world_->SessionCaller(*in).principal.role, Role::kOperator);
}

TEST_P(AccountsTest, TheSetupLinkLastsADay) {
  const auto link = accounts().MakeSetupLink();
  ASSERT_TRUE(link && *link);
  world_->wall_clock.Advance(24 * 3'600'000);
  EXPECT_EQ(
      accounts().UseLink((*link)->token, "a@b.c", "A", kPassword, world_->FromAddress("::1")).error().code,
      "link_not_found");
}

TEST_P(AccountsTest, TwoWhoUseALinkAtOnceMakeOneOwner) {
  const auto link = accounts().MakeSetupLink();
  ASSERT_TRUE(link && *link);
  std::atomic<int> made{0};
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&, i] {
      made += accounts().UseLink((*link)->token, "u" + std::to_string(i) + "@x.y", "U", kPassword,
                                 world_->FromAddress("127.0.0." + std::to_string(i + 1)))
                  ? 1
                  : 0;
    });
  }
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(made, 1);
}

TEST_P(AccountsTest, PeopleSignInAndOut) {
  const SignedIn owner = Owner();
  const auto stored = world_->database->Get<store::Rows>(
      [](store::Session& s) { return s.Query("SELECT password FROM users"); });
  ASSERT_TRUE(stored);
  EXPECT_THAT((*stored)[0].Text(0), ::testing::StartsWith("$argon2id$"));
  const AuditActor here = world_->FromAddress("127.0.0.1");
  EXPECT_EQ(accounts().SignIn("owner@example.org", "wrong password", here).error().code, "wrong_password");
  EXPECT_EQ(accounts().SignIn("nobody@example.org", kPassword, here).error().code, "wrong_password");
  const auto in = accounts().SignIn("Owner@Example.org", kPassword, here);
  ASSERT_TRUE(in) << in.error().message;
  Credentials credentials{.session = in->token, .address = "127.0.0.1"};
  auto who = accounts().Authenticate(credentials);
  ASSERT_TRUE(who) << who.error().message;
  EXPECT_EQ(who->key, "console");
  EXPECT_EQ(who->account, "default/default/console");
  EXPECT_EQ(who->member, in->user.id);
  credentials.writes = true;
  EXPECT_EQ(CodeOf(accounts().Authenticate(credentials)), "csrf_token_missing");
  credentials.csrf = owner.csrf;
  EXPECT_EQ(CodeOf(accounts().Authenticate(credentials)), "csrf_token_missing") << "of another session";
  credentials.csrf = in->csrf;
  who = accounts().Authenticate(credentials);
  ASSERT_TRUE(who);
  credentials.workspace = "ws-nowhere";
  EXPECT_EQ(CodeOf(accounts().Authenticate(credentials)), "workspace_not_yours");
  EXPECT_EQ(accounts().ListSessions({*who, here})->size(), 2u);
  ASSERT_TRUE(accounts().SignOut({*who, here}, in->session));
  credentials.workspace = {};
  EXPECT_EQ(CodeOf(accounts().Authenticate(credentials)), "invalid_session");
  EXPECT_FALSE(accounts().StillValid(*who));
  EXPECT_EQ(accounts().SignOut({*who, here}, owner.session + "x").error().kind, ErrorKind::kNotFound);
}

TEST_P(AccountsTest, SessionsEnd) {
  const SignedIn owner = Owner();
  world_->wall_clock.Advance(static_cast<int64_t>(world_->options_.session_hours * 3'600'000));
  EXPECT_EQ(CodeOf(accounts().Authenticate({.session = owner.token})), "invalid_session");
}

TEST_P(AccountsTest, SignInAttemptsAreLimited) {
  Owner();
  const AuditActor here = world_->FromAddress("198.51.100.1");
  for (int i = 0; i < world_->options_.sign_in_attempts; ++i)
    ASSERT_EQ(accounts().SignIn("owner@example.org", "wrong password", here).error().code, "wrong_password");
  const auto refused = accounts().SignIn("owner@example.org", kPassword, here);
  ASSERT_FALSE(refused) << "even with the right one";
  EXPECT_EQ(refused.error().code, "too_many_attempts");
  EXPECT_GT(refused.error().retry_after_s, 0);
  EXPECT_EQ(
      accounts().SignIn("owner@example.org", kPassword, world_->FromAddress("198.51.100.2")).error().code,
      "too_many_attempts")
      << "from elsewhere, too";
  world_->clock.Advance(60 * kSecond);
  EXPECT_TRUE(accounts().SignIn("owner@example.org", kPassword, here));
}

TEST_P(AccountsTest, PasswordsAreChangedAndReset) {
  const SignedIn owner = Owner();
  const Caller caller = world_->SessionCaller(owner);
  const auto second = accounts().SignIn("owner@example.org", kPassword, world_->FromAddress("127.0.0.1"));
  ASSERT_TRUE(second);
  EXPECT_EQ(accounts().ChangePassword(caller, "not it at all", "another password").error().code,
            "wrong_password");
  EXPECT_EQ(accounts().ChangePassword(caller, kPassword, "short").error().param, "password");
  ASSERT_TRUE(accounts().ChangePassword(caller, kPassword, "another password"));
  EXPECT_TRUE(accounts().Authenticate({.session = owner.token})) << "this session stays";
  EXPECT_EQ(CodeOf(accounts().Authenticate({.session = second->token})), "invalid_session");
  // On the machine itself.
  const auto link = accounts().MakeResetLinkFor("owner@example.org");
  ASSERT_TRUE(link) << link.error().message;
  EXPECT_FALSE(accounts().MakeResetLinkFor("nobody@example.org"));
  ASSERT_TRUE(accounts().UseLink(link->token, "", "", "a third password", world_->FromAddress("127.0.0.1")));
  EXPECT_EQ(CodeOf(accounts().Authenticate({.session = owner.token})), "invalid_session");
  EXPECT_TRUE(accounts().SignIn("owner@example.org", "a third password", world_->FromAddress("127.0.0.1")));
  EXPECT_FALSE(
      accounts().UseLink(link->token, "", "", "a fourth password", world_->FromAddress("127.0.0.1")));
}

TEST_P(AccountsTest, TheLastOwnerStays) {
  const SignedIn owner = Owner();
  const Caller caller = world_->SessionCaller(owner);
  const auto members = accounts().ListMembers(caller, "", {});
  ASSERT_TRUE(members);
  ASSERT_EQ(members->items.size(), 1u);
  const std::string id = members->items[0].id;
  EXPECT_EQ(accounts().RemoveMember(caller, id).error().code, "last_owner");
  EXPECT_EQ(accounts().ChangeMember(caller, id, "admin").error().code, "last_owner");
  Join(caller, "second@example.org", "owner", std::nullopt);
  EXPECT_TRUE(accounts().ChangeMember(caller, id, "admin"));
}

TEST_P(AccountsTest, AnAdminDoesNotTouchOwnersNorResetThem) {
  const SignedIn owner = Owner();
  const Caller op = world_->SessionCaller(owner);
  const SignedIn admin = Join(op, "admin@example.org", "admin", std::nullopt);
  const Caller caller = world_->SessionCaller(admin);
  EXPECT_EQ(caller.principal.role, Role::kAdmin);
  Join(op, "owner2@example.org", "owner", std::nullopt);
  const auto members = accounts().ListMembers(caller, "", {});
  ASSERT_TRUE(members);
  for (const Member& member : members->items) {
    if (member.role != "owner") continue;
    EXPECT_EQ(accounts().RemoveMember(caller, member.id).error().code, "role_too_low") << member.email;
    EXPECT_EQ(accounts().ChangeMember(caller, member.id, "viewer").error().code, "role_too_low");
    EXPECT_EQ(accounts().MakeResetLink(caller, member.id).error().code, "role_too_low");
  }
  const SignedIn viewer = Join(caller, "viewer@example.org", "viewer", std::nullopt);
  const auto now = accounts().ListMembers(caller, "", {});
  ASSERT_TRUE(now);
  for (const Member& member : now->items) {
    if (member.user == viewer.user.id) {
      EXPECT_TRUE(accounts().MakeResetLink(caller, member.id));
      EXPECT_EQ(accounts().ChangeMember(caller, member.id, "owner").error().code, "role_too_low");
    }
  }
}

TEST_P(AccountsTest, PersonalKeysDieWithTheMembership) {
  const SignedIn owner = Owner();
  const Caller op = world_->SessionCaller(owner);
  const auto workspace = accounts().CreateWorkspace(op, "", "team", 1);
  ASSERT_TRUE(workspace) << workspace.error().message;
  const SignedIn developer = Join(op, "dev@example.org", "developer", workspace->id);
  const Caller caller = world_->SessionCaller(developer, workspace->id);
  EXPECT_EQ(caller.principal.role, Role::kDeveloper);
  EXPECT_EQ(CodeOf(accounts().Authenticate({.session = developer.token, .workspace = "default"})),
            "workspace_not_yours");
  KeySpec spec;
  spec.name = "laptop";
  const auto key = accounts().CreateKey(caller, spec);
  ASSERT_TRUE(key) << key.error().message;
  const auto who = world_->Who(key->secret);
  ASSERT_TRUE(who);
  EXPECT_EQ(who->workspace, workspace->id);
  EXPECT_EQ(who->member, developer.user.id);
  const auto members = accounts().ListMembers(op, workspace->id, {});
  ASSERT_TRUE(members);
  ASSERT_EQ(members->items.size(), 1u);
  // A role that became less binds the key, too.
  ASSERT_TRUE(accounts().ChangeMember(op, members->items[0].id, "viewer"));
  EXPECT_EQ(world_->Who(key->secret)->role, Role::kViewer);
  EXPECT_FALSE(accounts().StillValid(*who));
  ASSERT_TRUE(accounts().RemoveMember(op, members->items[0].id));
  EXPECT_EQ(CodeOf(world_->Who(key->secret)), "key_revoked");
  EXPECT_EQ(CodeOf(accounts().Authenticate({.session = developer.token})), "invalid_session");
  const auto again = accounts().Invite(op, "dev@example.org", "developer", workspace->id, "");
  ASSERT_TRUE(again);
  EXPECT_EQ(
      accounts().UseLink(again->token, "", "", "not the password", world_->FromAddress("::1")).error().code,
      "wrong_password")
      << "an invitation is no way into an account that exists";
  ASSERT_TRUE(accounts().UseLink(again->token, "", "", kPassword, world_->FromAddress("::1")));
  EXPECT_EQ(CodeOf(world_->Who(key->secret)), "key_revoked") << "it stays dead";
}

TEST_P(AccountsTest, OneOrganisationSeesNothingOfAnother) {
  const Caller op = Operator();
  const auto other = accounts().CreateOrganisation(op, "Other", 1);
  ASSERT_TRUE(other) << other.error().message;
  const auto workspace = accounts().CreateWorkspace(op, other->id, "theirs", 1);
  ASSERT_TRUE(workspace);
  const CreatedKey theirs = ServiceKey("admin", workspace->id);
  const CreatedKey ours = ServiceKey("admin");
  const Caller caller = world_->CallerOf(ours.secret);
  const Caller them = world_->CallerOf(theirs.secret);
  EXPECT_EQ(them.principal.organisation, other->id);
  EXPECT_EQ(accounts().ListOrganisations(caller, {})->items.size(), 1u);
  EXPECT_EQ(accounts().FindOrganisation(caller, other->id).error().kind, ErrorKind::kNotFound);
  EXPECT_EQ(accounts().FindWorkspace(caller, workspace->id).error().kind, ErrorKind::kNotFound);
  EXPECT_EQ(accounts().ListWorkspaces(caller, other->id, {}).error().kind, ErrorKind::kNotFound);
  EXPECT_EQ(accounts().ListKeys(caller, workspace->id, {}).error().kind, ErrorKind::kNotFound);
  EXPECT_EQ(accounts().FindKey(caller, theirs.key.id).error().kind, ErrorKind::kNotFound);
  EXPECT_EQ(accounts().RevokeKey(caller, theirs.key.id).error().kind, ErrorKind::kNotFound);
  EXPECT_EQ(accounts().RotateKey(caller, theirs.key.id, 0).error().kind, ErrorKind::kNotFound);
  EXPECT_EQ(accounts().FindKey(caller, theirs.key.id).error().code,
            accounts().FindKey(caller, "key-none").error().code)
      << "the same as for one that is not there";
  const auto mine = accounts().ListKeys(caller, "", {});
  ASSERT_TRUE(mine);
  for (const ApiKey& key : mine->items) EXPECT_EQ(key.workspace, "default");
  EXPECT_EQ(accounts().Invite(caller, "x@y.z", "viewer", workspace->id, "").error().kind,
            ErrorKind::kNotFound);
  // Suspended: refused, but not the operator.
  ASSERT_TRUE(accounts().ChangeOrganisation(op, other->id, std::nullopt, std::nullopt, true));
  EXPECT_EQ(CodeOf(world_->Who(theirs.secret)), "organisation_suspended");
  EXPECT_FALSE(accounts().StillValid(them.principal));
  EXPECT_EQ(accounts().ChangeOrganisation(caller, "default", std::nullopt, 5.0, std::nullopt).error().code,
            "role_too_low");
}

TEST_P(AccountsTest, WorkspacesAreArchivedWithTheirKeys) {
  const auto workspace = accounts().CreateWorkspace(Operator(), "", "gone", 1);
  ASSERT_TRUE(workspace);
  EXPECT_EQ(accounts().CreateWorkspace(Operator(), "", "gone", 1).error().code, "exists");
  const CreatedKey key = ServiceKey("developer", workspace->id);
  ASSERT_TRUE(world_->Who(key.secret));
  ASSERT_TRUE(accounts().ArchiveWorkspace(Operator(), workspace->id));
  EXPECT_EQ(CodeOf(world_->Who(key.secret)), "key_revoked");
  EXPECT_EQ(accounts().ArchiveWorkspace(Operator(), "default").error().code, "default_workspace");
}

TEST_P(AccountsTest, TheAccountPathAndItsWeights) {
  const auto organisation = accounts().CreateOrganisation(Operator(), "Big", 3);
  const auto workspace = accounts().CreateWorkspace(Operator(), organisation->id, "w", 2);
  ASSERT_TRUE(workspace);
  const CreatedKey key = ServiceKey("developer", workspace->id);
  KeyChange change;
  change.weight = 0.5;
  ASSERT_TRUE(accounts().ChangeKey(Operator(), key.key.id, change));
  const auto who = world_->Who(key.secret);
  ASSERT_TRUE(who);
  EXPECT_EQ(who->account, organisation->id + "/" + workspace->id + "/" + key.key.id);
  EXPECT_THAT(who->account_weights, ElementsAre(3, 2, 0.5));
  for (const double bad : {0.0, -1.0, 1e9, std::nan("")})
    EXPECT_EQ(accounts().CreateOrganisation(Operator(), "x", bad).error().param, "weight");
}

TEST_P(AccountsTest, SqlInEveryFieldIsJustText) {
  const Caller op = Operator();
  for (const char* sql : {"'; DROP TABLE api_keys; --", "\" OR 1=1", "%' OR '1'='1", "$1", "\\'; SELECT 1"}) {
    const auto organisation = accounts().CreateOrganisation(op, sql, 1);
    ASSERT_TRUE(organisation) << sql;
    EXPECT_EQ(accounts().FindOrganisation(op, organisation->id)->name, sql);
    EXPECT_EQ(accounts().FindOrganisation(op, sql).error().kind, ErrorKind::kNotFound);
    EXPECT_EQ(accounts().FindWorkspace(op, sql).error().kind, ErrorKind::kNotFound);
    EXPECT_EQ(accounts().FindKey(op, sql).error().kind, ErrorKind::kNotFound);
    EXPECT_EQ(accounts().FindMember(op, sql).error().kind, ErrorKind::kNotFound);
    EXPECT_EQ(accounts().SignOut(op, sql).error().kind, ErrorKind::kNotFound);
    EXPECT_FALSE(accounts().UseLink(sql, sql, sql, sql, world_->FromAddress(sql)));
    EXPECT_FALSE(accounts().SignIn(std::string(sql) + "@x.y", sql, world_->FromAddress(sql)));
    Page page;
    page.after = std::string("0.") + sql;
    EXPECT_TRUE(accounts().ListKeys(op, "", page));
    page.after = sql;
    EXPECT_EQ(accounts().ListKeys(op, "", page).error().code, "invalid_cursor");
    KeySpec spec;
    spec.name = sql;
    spec.service = true;
    spec.models = {"m"};
    const auto key = accounts().CreateKey(op, spec);
    ASSERT_TRUE(key) << sql;
    EXPECT_EQ(accounts().FindKey(op, key->key.id)->name, sql);
  }
  EXPECT_TRUE(world_->Who(admin_));
}

TEST_P(AccountsTest, NamesThatAreNone) {
  for (const std::string& bad :
       {std::string(), std::string(201, 'x'), std::string("a\nb"), std::string("a\0b", 3)})
    EXPECT_EQ(accounts().CreateOrganisation(Operator(), bad, 1).error().kind, ErrorKind::kInvalid);
  EXPECT_EQ(accounts().CreateOrganisation(Operator(), "\xff", 1).error().code, "bad_text");
}

TEST_P(AccountsTest, PagesComeInOrderAndWhole) {
  std::vector<std::string> made;
  for (int i = 0; i < 7; ++i) made.push_back(ServiceKey().key.id);
  Page page;
  page.limit = 3;
  std::vector<std::string> seen;
  int pages = 0;
  do {
    const auto listed = accounts().ListKeys(Operator(), "", page);
    ASSERT_TRUE(listed) << listed.error().message;
    for (const ApiKey& key : listed->items) seen.push_back(key.id);
    page.after = listed->next;
    ++pages;
  } while (!page.after.empty() && pages < 10);
  EXPECT_EQ(pages, 3);
  EXPECT_EQ(seen.size(), 8u) << "with the operator's";
  for (const std::string& id : made) EXPECT_THAT(seen, ::testing::Contains(id));
  page.limit = 0;
  EXPECT_EQ(accounts().ListKeys(Operator(), "", page).error().param, "limit");
}

TEST_P(AccountsTest, LimitsHold) {
  world_->options_.max_keys = 3;
  world_->options_.max_workspaces = 2;
  ASSERT_TRUE(world_->Open());
  ServiceKey();
  const CreatedKey last = ServiceKey();
  KeySpec spec;
  spec.name = "x";
  spec.service = true;
  EXPECT_EQ(accounts().CreateKey(Operator(), spec).error().code, "too_many_keys");
  ASSERT_TRUE(accounts().RevokeKey(Operator(), last.key.id));
  EXPECT_TRUE(accounts().CreateKey(Operator(), spec)) << "revoked ones do not count";
  EXPECT_TRUE(accounts().CreateWorkspace(Operator(), "", "second", 1));
  EXPECT_EQ(accounts().CreateWorkspace(Operator(), "", "third", 1).error().code, "too_many_workspaces");
}

TEST_P(AccountsTest, TheLastOperatorKeyStaysUntilAPersonIsOne) {
  const std::string id = Operator().principal.key;
  EXPECT_EQ(accounts().RevokeKey(Operator(), id).error().code, "last_operator");
  KeyChange narrow;
  narrow.expires_ms = kTestTime_ms + 1000;
  EXPECT_EQ(accounts().ChangeKey(Operator(), id, narrow).error().code, "last_operator");
  narrow = {};
  narrow.networks = {{"10.0.0.0/8"}};
  EXPECT_EQ(accounts().ChangeKey(Operator(), id, narrow).error().code, "last_operator");
  Owner();
  EXPECT_TRUE(accounts().RevokeKey(Operator(), id));
}

TEST_P(AccountsTest, SecretsAreSealedInTheStore) {
  ASSERT_TRUE(accounts().SetSecret(Operator(), "hub.token", "hf_secret"));
  ASSERT_TRUE(accounts().SetSecret(Operator(), "hub.token", "hf_newer"));
  EXPECT_EQ(accounts().SetSecret(Operator(), "webhook.x", "s").error().code, "invalid_value")
      << "nobody reads it";
  EXPECT_EQ(**accounts().GetSecret("hub.token"), "hf_newer");
  EXPECT_FALSE(*accounts().GetSecret("other"));
  const auto rows = world_->database->Get<store::Rows>(
      [](store::Session& s) { return s.Query("SELECT box FROM secrets"); });
  ASSERT_TRUE(rows);
  EXPECT_EQ((*rows)[0].Bytes(0).find("hf_"), std::string::npos);
}

TEST_P(AccountsTest, IdempotentRepliesAreRepeated) {
  EXPECT_FALSE(*accounts().BeginIdempotent("key/1", "request"));
  EXPECT_EQ(accounts().BeginIdempotent("key/1", "request").error().code, "idempotency_in_progress");
  EXPECT_EQ(accounts().BeginIdempotent("key/1", "another").error().code, "idempotency_key_reused");
  accounts().EndIdempotent("key/1", Accounts::KeptReply{201, "{\"key\":\"tp-secret\"}"});
  const auto again = accounts().BeginIdempotent("key/1", "request");
  ASSERT_TRUE(again && *again);
  EXPECT_EQ((*again)->status, 201);
  EXPECT_EQ((*again)->body, "{\"key\":\"tp-secret\"}");
  EXPECT_FALSE(*accounts().BeginIdempotent("key/2", "request"));
  accounts().EndIdempotent("key/2", std::nullopt);  // it failed: the next may try
  EXPECT_FALSE(*accounts().BeginIdempotent("key/2", "request"));
  world_->wall_clock.Advance(121'000);  // its caller crashed
  EXPECT_FALSE(*accounts().BeginIdempotent("key/2", "request"));
  world_->wall_clock.Advance(86'400'000);
  EXPECT_FALSE(*accounts().BeginIdempotent("key/1", "another")) << "a day later it is forgotten";
}

TEST_P(AccountsTest, AWorkspaceStoresNothingUntilARuleIsSetThatFloorsAboveAllow) {
  EXPECT_FALSE(accounts().BodyRuleOf("default").store);
  EXPECT_EQ(accounts().ResponsesRuleOf("default"), ResponsesRule::kAsAsked);
  EXPECT_EQ(accounts().ResponsesRuleOf("ws-nowhere"), ResponsesRule::kNever);
  EXPECT_EQ(accounts().ChangeWorkspace(Operator(), "default", {.store_bodies = true}).error().code,
            "not_available")
      << "nothing here would store them";
  Status allowed;
  std::vector<bool> heard;
  accounts().OnWorkspaceChange([&](store::Session&, const Workspace& before, Workspace& after) -> Status {
    heard.push_back(after.bodies.store && !before.bodies.store);
    after.bodies_deleted = 3;
    return allowed;
  });
  WorkspaceChange change;
  change.store_bodies = true;
  change.retention_days = 12;
  change.redact = nlohmann::ordered_json{{"phone", false}, {"patterns", {"A-\\d"}}};
  change.stored_responses = ResponsesRule::kNever;
  allowed = Fail(ErrorKind::kInvalid, "bad_pattern", "no");
  EXPECT_EQ(accounts().ChangeWorkspace(Operator(), "default", change).error().code, "bad_pattern");
  EXPECT_FALSE(accounts().BodyRuleOf("default").store) << "what is not allowed changes nothing";
  EXPECT_FALSE(accounts().FindWorkspace(Operator(), "default")->bodies.store);
  allowed = {};
  const auto changed = accounts().ChangeWorkspace(Operator(), "default", change);
  ASSERT_TRUE(changed) << changed.error().message;
  EXPECT_EQ(changed->bodies_deleted, 3);
  EXPECT_EQ(heard, (std::vector<bool>{true, true}));
  const BodyRule rule = accounts().BodyRuleOf("default");
  EXPECT_TRUE(rule.store);
  EXPECT_EQ(rule.retention_days, 12);
  EXPECT_FALSE(rule.Redacts(Redact::kPhone));
  EXPECT_TRUE(rule.Redacts(Redact::kEmail));
  EXPECT_THAT(rule.patterns, ElementsAre("A-\\d"));
  EXPECT_EQ(accounts().FindWorkspace(Operator(), "default")->bodies, rule);
  const auto in_store = world_->database->Get<BodyRule>(
      [](store::Session& session) { return Accounts::ReadBodyRule(session, "default"); });
  ASSERT_TRUE(in_store);
  EXPECT_EQ(*in_store, rule);
  // Another name leaves it as it is; archiving ends it.
  ASSERT_TRUE(accounts().ChangeWorkspace(Operator(), "default", {.name = "renamed"}));
  EXPECT_EQ(accounts().BodyRuleOf("default"), rule);
  const auto other = accounts().CreateWorkspace(Operator(), "", "other", 1);
  ASSERT_TRUE(other);
  ASSERT_TRUE(accounts().ChangeWorkspace(Operator(), other->id, change));
  ASSERT_TRUE(accounts().ArchiveWorkspace(Operator(), other->id));
  EXPECT_FALSE(accounts().BodyRuleOf(other->id).store);
  EXPECT_EQ(accounts().ResponsesRuleOf(other->id), ResponsesRule::kNever);
}

TEST_P(AccountsTest, EveryChangeIsInTheAuditLog) {
  const CreatedKey key = ServiceKey();
  ASSERT_TRUE(accounts().RevokeKey(Operator(), key.key.id));
  const SignedIn owner = Owner();
  const auto rows = world_->audit->List("default", 0, 100);
  ASSERT_TRUE(rows);
  std::vector<std::string> actions;
  for (const AuditRow& row : *rows) {
    actions.push_back(row.action);
    EXPECT_EQ(row.after.find(key.secret), std::string::npos);
    EXPECT_EQ(row.after.find(kPassword), std::string::npos);
  }
  for (const char* action : {"key.created", "key.revoked", "member.created", "session.created"})
    EXPECT_THAT(actions, ::testing::Contains(action));
  EXPECT_EQ(rows->front().actor.member, owner.user.id);
  EXPECT_TRUE(world_->audit->Verify()->good);
}

// Oracle: rows written by the older version's own statements.
TEST_P(AccountsTest, UpgradesFromEveryEarlierVersion) {
  const store::MigrationList all = AccountsMigrations();
  for (size_t from = 0; from < all.migrations.size(); ++from) {
    std::string postgresql;
    ASSERT_NO_FATAL_FAILURE(FreshDatabase(postgresql));
    AccountsWorld old(postgresql);
    {
      store::DatabaseOptions options;
      options.file = old.home() / "tidepool.db";
      options.postgresql = postgresql;
      auto database = store::Database::Open(options, old.metrics);
      ASSERT_TRUE(database);
      ASSERT_EQ((*database)->backend(), GetParam());
      const store::MigrationList part[] = {{all.floor, all.migrations.first(from)}};
      ASSERT_TRUE((*database)->Migrate(part));
      if (from > 0) {
        ASSERT_TRUE((*database)->Write([](store::Session& s) {
          return s
              .Execute(
                  "INSERT INTO organisations (id, name, suspended, weight, created_ms) VALUES ('org-old', "
                  "'Old', "
                  "0, 2.0, 5)")
              .map([](int64_t) {});
        }));
      }
    }
    const Status opened = old.Open();
    ASSERT_TRUE(opened) << from << ": " << opened.error().message;
    const Caller op = old.CallerOf(old.created_key);
    EXPECT_EQ(old.accounts->ListOrganisations(op, {})->items.size(), from > 0 ? 2u : 1u);
    if (from > 0) {
      EXPECT_EQ(old.accounts->FindOrganisation(op, "org-old")->weight, 2.0);
    }
    // What later versions brought works on what the older one left.
    const auto made = old.accounts->CreateWorkspace(op, from > 0 ? "org-old" : "default", "new", 1);
    ASSERT_TRUE(made) << from << ": " << made.error().message;
    EXPECT_FALSE(made->sharing);
    EXPECT_TRUE(old.accounts->SetSecret(op, "hub.token", "secret"));
    EXPECT_FALSE(*old.accounts->BeginIdempotent("key/1", "request"));
    EXPECT_TRUE(old.audit->Verify()->good);
  }
}

INSTANTIATE_TEST_SUITE_P(Backends, AccountsTest,
                         ::testing::Values(store::Backend::kSqlite, store::Backend::kPostgresql),
                         [](const auto& backend) {
                           return backend.param == store::Backend::kSqlite ? "Sqlite" : "Postgresql";
                         });

TEST(AccountsStoreTest, AFullDiskRefusesChangesAndNothingElse) {
  AccountsWorld world;
  ASSERT_TRUE(world.Open());
  const std::string key = world.created_key;
  ASSERT_TRUE(world.database->Write(
      [](store::Session& s) { return s.Query("PRAGMA max_page_count=1").map([](auto&&) {}); }));
  Status status;
  for (int i = 0; i < 200 && status; ++i) {
    status =
        world.accounts->CreateOrganisation(world.CallerOf(key), std::string(200, 'x'), 1).map([](auto&&) {});
  }
  ASSERT_FALSE(status);
  EXPECT_EQ(status.error().code, "store_full");
  EXPECT_TRUE(world.Who(key)) << "who has a key is still served";
  ASSERT_TRUE(world.database->Write(
      [](store::Session& s) { return s.Query("PRAGMA max_page_count=100000").map([](auto&&) {}); }));
  EXPECT_TRUE(world.accounts->CreateOrganisation(world.CallerOf(key), "again", 1)) << "without a restart";
  EXPECT_TRUE(world.audit->Verify()->good);
}

TEST(AccountsStoreTest, ALostPostgresqlKeepsKeysWorkingAndRefusesChanges) {
  auto server = store::PostgresqlServer::Start();
  ASSERT_TRUE(server) << server.error().message;
  const auto made = (*server)->MakeDatabase();
  ASSERT_TRUE(made);
  AccountsWorld world(*made);
  ASSERT_TRUE(world.Open());
  const std::string key = world.created_key;
  const Caller op = world.CallerOf(key);
  ASSERT_TRUE((*server)->Stop());
  EXPECT_TRUE(world.Who(key));
  EXPECT_EQ(world.accounts->CreateOrganisation(op, "x", 1).error().code, "store_unavailable");
  ASSERT_TRUE((*server)->StartAgain());
  const auto again = world.accounts->CreateOrganisation(op, "x", 1);
  EXPECT_TRUE(again) << again.error().message;
}

}  // namespace
}  // namespace tidepool::platform
