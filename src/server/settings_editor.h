// Settings that are changed while the server runs: PATCH /api/v1/settings.
//
// A change is checked as a start would check it, recorded, and written to $TIDEPOOL_HOME/console.toml (whole
// or not at all), which the next start reads between the settings file and the variables. What can be applied
// to the running server is applied at once; of the rest the description tells both values: the one in force
// and the next one.
//
// Threads: any; changes come one after another.
#pragma once

#include <functional>
#include <map>
#include <mutex>
#include <nlohmann/json.hpp>
#include <string>

#include "base/result.h"
#include "server/settings.h"

namespace tidepool::server {

class SettingsEditor {
 public:
  struct Hooks {
    // What a start would refuse beyond each setting's own bounds. Names the setting.
    std::function<Status(const Settings& next)> check;
    // Settings that take effect at once; called before the file is written.
    std::map<std::string, std::function<Status(const Settings& next)>, std::less<>> live;
  };
  // `running` outlives it.
  SettingsEditor(const Settings& running, Hooks hooks);

  // As DescribeSettings, and of each: next (the value at the next start, if it is another one), next_source,
  // live (changes take effect at once).
  nlohmann::ordered_json Describe() const;

  // {"pool.ttft_s": "5", "models.pin": null}: text, numbers, true and false, lists of text; null takes the
  // change back. `record` is called with what was there before and is after, once all is checked and before
  // anything is changed; its error ends it. Errors: kInvalid names the setting; kForbidden
  // "setting_not_editable".
  using Record =
      std::function<Status(const nlohmann::ordered_json& before, const nlohmann::ordered_json& after)>;
  Status Change(const nlohmann::ordered_json& values, const Record& record);

 private:
  Result<Settings> Resolve(const std::map<std::string, std::string>& console) const;

  const Settings& running_;
  const Hooks hooks_;
  mutable std::mutex mutex_;
  std::map<std::string, std::string> console_;  // what the file says
  std::map<std::string, std::string> applied_;  // values in force that were applied since the start
};

}  // namespace tidepool::server
