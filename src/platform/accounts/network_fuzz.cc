// A network that parses says its own text again, and contains its own address.
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "platform/accounts/network.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using tidepool::platform::Network;
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  (void)tidepool::platform::NormalisedAddress(text);
  const auto network = Network::Parse(text);
  if (!network) return 0;
  const std::string again = network->Text();
  const auto second = Network::Parse(again);
  if (!second || second->Text() != again) std::abort();
  if (!second->Contains(again.substr(0, again.find('/')))) std::abort();
  return 0;
}
