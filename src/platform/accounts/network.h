// IPv4 and IPv6 networks: "10.0.0.0/8", "2001:db8::/32", "192.0.2.7".
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace tidepool::platform {

class Network {
 public:
  // kInvalid "bad_network" for what is no address or CIDR range, or has bits beyond its prefix.
  static Result<Network> Parse(std::string_view text);
  // False for what is no address. An IPv4 address mapped into IPv6 (::ffff:a.b.c.d) is the IPv4 address.
  bool Contains(std::string_view address) const;
  std::string Text() const;  // "10.0.0.0/8"

 private:
  bool v6_ = false;
  unsigned char bytes_[16] = {};
  int bits_ = 0;
};

bool AnyContains(const std::vector<Network>& networks, std::string_view address);
// Is this an IP address? Returns it in the usual spelling (a mapped one as IPv4), "" otherwise.
std::string NormalisedAddress(std::string_view text);

}  // namespace tidepool::platform
