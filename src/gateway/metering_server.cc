// What a server that measures against itself needs beside it: the gateway and the simulated model without a
// ledger, or with one whose rows end in its journal. Keys are not looked at.
//
//   metering_server none|null        # prints its URL; serves until standard input ends
#include <fmt/format.h>

#include <cstdio>
#include <string_view>

#include "base/log.h"
#include "gateway/gateway.h"
#include "platform/inference/metering_rig.h"

namespace tidepool {
namespace {

class AnybodyIsTheOperator final : public platform::Authenticator {
 public:
  Result<platform::Principal> Authenticate(const platform::Credentials&) const override {
    platform::Principal who;
    who.key = "bench";
    who.role = platform::Role::kOperator;
    who.is_operator = true;
    return who;
  }
};

int Main(std::string_view kind, double step_ms) {
  LogOptions log;
  log.level = LogLevel::kError;  // as the server it is compared with
  ConfigureLog(log);
  platform::MeteringRig::Options options;
  options.kind =
      kind == "null" ? platform::MeteringRig::Kind::kNullStore : platform::MeteringRig::Kind::kUnmetered;
  options.device.step_base_s = step_ms / 1e3;
  platform::MeteringRig rig(std::move(options));
  platform::CatalogOptions catalog_options;
  catalog_options.home = rig.folder();
  auto catalog = platform::Catalog::Open(catalog_options);
  CHECK(catalog.has_value());
  const SteadyClock clock;
  AnybodyIsTheOperator keys;
  gateway::GatewayOptions gateway_options;
  gateway_options.listen = "127.0.0.1:0";
  auto gateway =
      gateway::Gateway::Start(gateway_options, *rig.inference, **catalog, keys, clock, rig.metrics, {});
  CHECK(gateway.has_value());
  fmt::print("{}\n", (*gateway)->url());
  std::fflush(stdout);
  while (std::getchar() != EOF) {
  }
  (*gateway)->Stop();
  return 0;
}

}  // namespace
}  // namespace tidepool

int main(int argc, char** argv) {
  if (argc < 2 || (std::string_view(argv[1]) != "none" && std::string_view(argv[1]) != "null")) {
    fmt::print(stderr, "usage: metering_server none|null [STEP_MS]\n");
    return 2;
  }
  return tidepool::Main(argv[1], argc > 2 ? std::atof(argv[2]) : 0);
}
