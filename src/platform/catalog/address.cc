#include "platform/catalog/address.h"

#include <arpa/inet.h>
#include <netinet/in.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>

namespace tidepool::platform {
namespace {

struct Range {
  uint32_t base;
  int bits;
};
// RFC 6890 and its successors: everything that is not globally reachable.
constexpr std::array<Range, 16> kPrivateV4 = {{
    {0x00000000, 8},   // 0.0.0.0/8 this network
    {0x0A000000, 8},   // 10/8
    {0x64400000, 10},  // 100.64/10 shared (carrier NAT)
    {0x7F000000, 8},   // 127/8 loopback
    {0xA9FE0000, 16},  // 169.254/16 link-local (cloud metadata)
    {0xAC100000, 12},  // 172.16/12
    {0xC0000000, 24},  // 192.0.0/24 protocol assignments
    {0xC0000200, 24},  // 192.0.2/24 documentation
    {0xC0586300, 24},  // 192.88.99/24 6to4 relay
    {0xC0A80000, 16},  // 192.168/16
    {0xC6120000, 15},  // 198.18/15 benchmarks
    {0xC6336400, 24},  // 198.51.100/24 documentation
    {0xCB007100, 24},  // 203.0.113/24 documentation
    {0xE0000000, 4},   // 224/4 multicast
    {0xF0000000, 4},   // 240/4 reserved, broadcast
    {0xFFFFFFFF, 32},
}};

bool IsPrivateV4(uint32_t address) {
  return std::any_of(kPrivateV4.begin(), kPrivateV4.end(), [&](const Range& range) {
    const uint32_t mask = range.bits == 32 ? 0xFFFFFFFFu : ~(0xFFFFFFFFu >> range.bits);
    return (address & mask) == range.base;
  });
}

uint32_t BigEndian32(const uint8_t* bytes) {
  return uint32_t{bytes[0]} << 24 | uint32_t{bytes[1]} << 16 | uint32_t{bytes[2]} << 8 | uint32_t{bytes[3]};
}

bool IsPrivateV6(const uint8_t* a) {
  const auto zero = [&](int from, int to) {
    return std::all_of(a + from, a + to, [](uint8_t b) { return b == 0; });
  };
  if (zero(0, 10) && a[10] == 0xFF && a[11] == 0xFF) return IsPrivateV4(BigEndian32(a + 12));  // ::ffff:v4
  if (zero(0, 12)) return true;  // ::, ::1, IPv4-compatible
  if (a[0] == 0x00 && a[1] == 0x64 && a[2] == 0xFF &&
      a[3] == 0x9B) {  // 64:ff9b::/96 NAT64; 64:ff9b:1::/48 local
    return zero(4, 12) ? IsPrivateV4(BigEndian32(a + 12)) : true;
  }
  if (a[0] == 0x20 && a[1] == 0x02) return IsPrivateV4(BigEndian32(a + 2));  // 2002::/16 6to4
  if (a[0] == 0x20 && a[1] == 0x01 && a[2] < 0x02) return true;  // 2001::/23: Teredo and protocol assignments
  if (a[0] == 0x20 && a[1] == 0x01 && a[2] == 0x0D && a[3] == 0xB8) return true;  // documentation
  if (a[0] == 0x01 && a[1] == 0x00 && zero(2, 8)) return true;                    // 100::/64 discard
  // 2000::/3 is what is routed in public; fc00::/7, fe80::/10, fec0::/10, ff00::/8 and the rest are not.
  return (a[0] & 0xE0) != 0x20;
}

}  // namespace

bool IsPrivateAddress(const sockaddr* address) {
  if (address->sa_family == AF_INET) {
    sockaddr_in v4;
    std::memcpy(&v4, address, sizeof v4);
    return IsPrivateV4(ntohl(v4.sin_addr.s_addr));
  }
  if (address->sa_family == AF_INET6) {
    sockaddr_in6 v6;
    std::memcpy(&v6, address, sizeof v6);
    return IsPrivateV6(v6.sin6_addr.s6_addr);
  }
  return true;
}

bool IsPrivateLiteral(const std::string& host) {
  std::string bare = host;
  if (bare.size() > 2 && bare.front() == '[' && bare.back() == ']') bare = bare.substr(1, bare.size() - 2);
  in_addr v4{};
  if (::inet_pton(AF_INET, bare.c_str(), &v4) == 1) return IsPrivateV4(ntohl(v4.s_addr));
  in6_addr v6{};
  if (::inet_pton(AF_INET6, bare.substr(0, bare.find('%')).c_str(), &v6) == 1) return IsPrivateV6(v6.s6_addr);
  return false;
}

}  // namespace tidepool::platform
