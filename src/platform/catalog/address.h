// Which addresses are not the public Internet.
#pragma once

#include <sys/socket.h>

#include <string>

namespace tidepool::platform {

// Loopback, private, link-local, shared, multicast, reserved and unspecified addresses, also when an IPv4 one
// is wrapped into IPv6 (mapped, compatible, NAT64, 6to4). Unknown families count as private.
bool IsPrivateAddress(const sockaddr* address);
// "[::1]" or "10.0.0.1" as text. False for host names.
bool IsPrivateLiteral(const std::string& host);

}  // namespace tidepool::platform
