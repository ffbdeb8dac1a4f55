#include "gateway/router.h"

#include <gtest/gtest.h>

#include <set>

namespace tidepool::gateway {
namespace {

struct Found {
  std::string pattern, id, allow, error;
};

Found Match(std::string_view method, std::string_view target) {
  const auto match = MatchRoute(Routes(), method, target);
  if (!match) return {"", "", "", match.error().code};
  Found found;
  found.allow = match->allow;
  if (match->route != nullptr) found.pattern = std::string(match->route->pattern);
  for (const auto& [name, value] : match->values) {
    if (name == "id") found.id = value;
  }
  return found;
}

TEST(Router, FindsRoutes) {
  EXPECT_EQ(Match("POST", "/v1/chat/completions").pattern, "/v1/chat/completions");
  EXPECT_EQ(Match("POST", "/v1/chat/completions/").pattern, "/v1/chat/completions");
  EXPECT_EQ(Match("POST", "/v1/chat/completions?x=/y").pattern, "/v1/chat/completions");
  EXPECT_EQ(Match("HEAD", "/health").pattern, "/health");
  EXPECT_EQ(Match("GET", "http://localhost:8433/health").pattern, "/health");
  EXPECT_EQ(Match("GET", "/v1/models").pattern, "/v1/models");
  EXPECT_EQ(Match("GET", "/v1/models/").pattern, "/v1/models");
  EXPECT_EQ(Match("GET", "/nothing").pattern, "");
  EXPECT_EQ(Match("GET", "/nothing").allow, "");
  EXPECT_EQ(Match("GET", "/").pattern, "");
  EXPECT_EQ(Match("GET", "//health").pattern, "");
  EXPECT_EQ(Match("GET", "*").pattern, "");
  EXPECT_EQ(Match("GET", "").pattern, "");
}

TEST(Router, TakesNamesWithSlashesAndColons) {
  EXPECT_EQ(Match("GET", "/v1/models/smollm2:135m").id, "smollm2:135m");
  EXPECT_EQ(Match("GET", "/v1/models/org%2Frepo%3AQ4_K_M").id, "org/repo:Q4_K_M");
  EXPECT_EQ(Match("GET", "/v1/models/org/repo:Q4_K_M").id, "org/repo:Q4_K_M");
  EXPECT_EQ(Match("GET", "/v1/models/a%20b+c%C3%A9").id, "a b+c\xc3\xa9");
  EXPECT_EQ(Match("POST", "/api/v1/models/org/repo/load").id, "org/repo");
  EXPECT_EQ(Match("POST", "/api/v1/models/org/repo/load").pattern, "/api/v1/models/{id...}/load");
  EXPECT_EQ(Match("POST", "/api/v1/models/load/unload").id, "load");
  EXPECT_EQ(Match("DELETE", "/api/v1/models/org/load").id, "org/load");
  EXPECT_EQ(Match("POST", "/api/v1/pulls/pull-1/pause").id, "pull-1");
  // A decoded slash must not become a part of the path's structure.
  EXPECT_EQ(Match("POST", "/api/v1/models/x%2Fload").pattern, "");
}

TEST(Router, RefusesBadPaths) {
  for (const std::string_view target : {"/v1/models/%", "/v1/models/%4", "/v1/models/%zz", "/v1/models/a%00b",
                                        "/v1/models/a%0d%0ab", "/v1/models/%7f"}) {
    EXPECT_EQ(Match("GET", target).error, "bad_path") << target;
  }
  EXPECT_EQ(Match("GET", "/v1/models/" + std::string(9000, 'a')).error, "bad_path");
  std::string many = "/v1/models";
  for (int i = 0; i < 100; ++i) many += "/a";
  EXPECT_EQ(Match("GET", many).error, "bad_path");
}

TEST(Router, NamesTheAllowedMethods) {
  EXPECT_EQ(Match("GET", "/v1/chat/completions").allow, "POST");
  EXPECT_EQ(Match("PUT", "/api/v1/models/x").allow, "GET, DELETE");
  EXPECT_EQ(Match("BREW", "/health").allow, "GET");
}

TEST(Router, RoutesAreDescribedAndDistinct) {
  std::set<std::string> seen;
  for (const Route& route : Routes()) {
    EXPECT_TRUE(seen.insert(std::string(route.method) + " " + std::string(route.pattern)).second)
        << route.pattern;
    EXPECT_FALSE(route.summary.empty()) << route.pattern;
    EXPECT_FALSE(route.tag.empty()) << route.pattern;
    EXPECT_NE(route.handler, nullptr) << route.pattern;
    // Public routes are exactly these: a new one is a decision, not an accident.
    static const std::set<std::string_view> kPublic = {"GET /health",
                                                       "GET /ready",
                                                       "GET /setup",
                                                       "POST /api/v1/links/find",
                                                       "POST /api/v1/links/use",
                                                       "POST /api/v1/sessions",
                                                       "POST /api/v1/shared"};
    const bool is_public = kPublic.contains(std::string(route.method) + " " + std::string(route.pattern));
    EXPECT_EQ(route.access == platform::Role::kNone, is_public) << route.pattern;
    // What reads a body must not do so on an I/O thread.
    if (route.request != nullptr) {
      EXPECT_NE(route.lane, Lane::kInline) << route.pattern;
    }
  }
}

}  // namespace
}  // namespace tidepool::gateway
