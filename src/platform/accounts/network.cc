#include "platform/accounts/network.h"

#include <arpa/inet.h>
#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cstring>

namespace tidepool::platform {
namespace {

struct IpAddress {
  bool v6 = false;
  unsigned char bytes[16] = {};
};

bool ParseIp(std::string_view text, IpAddress& out) {
  if (text.empty() || text.size() > 45 || text.find('\0') != std::string_view::npos) return false;
  const std::string copy(text);
  out.v6 = copy.find(':') != std::string::npos;
  if (inet_pton(out.v6 ? AF_INET6 : AF_INET, copy.c_str(), out.bytes) != 1) return false;
  constexpr unsigned char kMapped[12] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};
  if (out.v6 && std::memcmp(out.bytes, kMapped, sizeof kMapped) == 0) {
    std::memmove(out.bytes, out.bytes + 12, 4);
    std::memset(out.bytes + 4, 0, 12);
    out.v6 = false;
  }
  return true;
}

std::string IpText(bool v6, const unsigned char* bytes) {
  char text[INET6_ADDRSTRLEN];
  return inet_ntop(v6 ? AF_INET6 : AF_INET, bytes, text, sizeof text) == nullptr ? "" : text;
}

// Are the first `bits` of both equal?
bool SamePrefix(const unsigned char* a, const unsigned char* b, int bits) {
  const auto whole = static_cast<size_t>(bits / 8);
  if (std::memcmp(a, b, whole) != 0) return false;
  const int rest = bits % 8;
  if (rest == 0) return true;
  const int mask = 0xff << (8 - rest) & 0xff;
  return (a[whole] & mask) == (b[whole] & mask);
}

}  // namespace

Result<Network> Network::Parse(std::string_view text) {
  const auto bad = [&] {
    return Fail(ErrorKind::kInvalid, "bad_network",
                fmt::format("\"{}\" is not an address or a CIDR range such as 10.0.0.0/8 or 2001:db8::/32.",
                            text.substr(0, 60)));
  };
  const size_t slash = text.find('/');
  IpAddress base;
  if (!ParseIp(text.substr(0, slash), base)) return bad();
  Network network;
  network.v6_ = base.v6;
  std::memcpy(network.bytes_, base.bytes, sizeof base.bytes);
  const int full = base.v6 ? 128 : 32;
  network.bits_ = full;
  if (slash != std::string_view::npos) {
    const std::string_view bits = text.substr(slash + 1);
    const auto [end, problem] = std::from_chars(bits.data(), bits.data() + bits.size(), network.bits_);
    if (problem != std::errc() || end != bits.data() + bits.size() || network.bits_ < 0 ||
        network.bits_ > full)
      return bad();
  }
  for (int i = network.bits_; i < full; ++i) {
    if ((network.bytes_[i / 8] & (0x80 >> (i % 8))) != 0) {
      return Fail(ErrorKind::kInvalid, "bad_network",
                  fmt::format("\"{}\" has bits beyond its prefix of {}: is it meant to be one address, or a "
                              "larger network?",
                              text.substr(0, 60), network.bits_));
    }
  }
  return network;
}

bool Network::Contains(std::string_view address) const {
  IpAddress ip;
  return ParseIp(address, ip) && ip.v6 == v6_ && SamePrefix(ip.bytes, bytes_, bits_);
}

std::string Network::Text() const { return fmt::format("{}/{}", IpText(v6_, bytes_), bits_); }

bool AnyContains(const std::vector<Network>& networks, std::string_view address) {
  return std::any_of(networks.begin(), networks.end(),
                     [&](const Network& network) { return network.Contains(address); });
}

std::string NormalisedAddress(std::string_view text) {
  IpAddress ip;
  return ParseIp(text, ip) ? IpText(ip.v6, ip.bytes) : std::string();
}

}  // namespace tidepool::platform
