// The functions that a request offers its model, whatever dialect it came in: names, schemas and sizes are
// checked here, under the names that the dialect gives to their fields.
#pragma once

#include <string>
#include <unordered_set>

#include "gateway/fields.h"
#include "platform/inference/inference.h"

namespace tidepool::gateway {

// Where the parts of one tool are in the client's request, for errors: "tools[1].function.name".
struct ToolPlaces {
  std::string name, parameters, strict;
};

class ToolList {
 public:
  explicit ToolList(platform::ChatRequest& request) : request_(request) {}
  // {"type": "function", "function": {"name", "description", "parameters", "strict"}}, its function an
  // object; all but the name may be missing.
  Status Add(Json tool, const ToolPlaces& places);
  bool Has(const std::string& name) const { return names_.contains(name); }

 private:
  platform::ChatRequest& request_;
  std::unordered_set<std::string> names_;
  size_t bytes_ = 0;
};

inline constexpr size_t kMaxTools = 512;
inline constexpr size_t kMaxToolName = 128;

}  // namespace tidepool::gateway
