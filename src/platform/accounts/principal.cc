#include "platform/accounts/principal.h"

#include <algorithm>

namespace tidepool::platform {

std::string_view RoleName(Role role) {
  switch (role) {
    case Role::kNone: return "none";
    case Role::kViewer: return "viewer";
    case Role::kDeveloper: return "developer";
    case Role::kWorkspaceAdmin: return "workspace_admin";
    case Role::kAdmin: return "admin";
    case Role::kOwner: return "owner";
    case Role::kOperator: return "operator";
  }
  return "none";
}

bool MatchesPattern(std::string_view pattern, std::string_view name) {
  if (pattern.ends_with('*')) return name.starts_with(pattern.substr(0, pattern.size() - 1));
  return pattern == name;
}

bool Principal::MayUseModel(std::string_view model) const {
  return models.empty() || std::any_of(models.begin(), models.end(), [&](const std::string& pattern) {
           return MatchesPattern(pattern, model);
         });
}

}  // namespace tidepool::platform
