// Finds what identifies people or opens doors in a text: the built-in kinds of redaction.
//
// Linear in the text, but for a bounded look around each candidate. ASCII forms only: an e-mail address in
// other letters, or digits of other scripts, are not found. Rather too much than too little: a number that
// happens to pass Luhn's check is taken for a card.
//
//   email   local@domain.tld, the local part up to 64 bytes
//   phone   +CC and 8 to 15 digits; 00 and 10 to 17; (ddd) ddd-dddd and ddd-ddd-dddd; 11 digits from 13 to 19
//   (China);
//           9 to 12 digits from 0 in groups
//   card    13 to 19 digits, alone or in groups of at least 3 divided by single spaces or hyphens, whose last
//   is Luhn's
//           (ISO/IEC 7812-1)
//   iban    ISO 13616: country, check digits mod 97, 15 to 34 characters, alone or in groups
//   token   "Bearer ..." ; sk-, tp-, hf_, ghp_ and others by prefix; JWTs
//   ip      IPv4 (four numbers to 255), IPv6 (as inet_pton reads it)
#pragma once

#include <cstddef>
#include <string_view>
#include <vector>

#include "platform/accounts/body_rule.h"

namespace tidepool::platform {

// text[begin, end).
struct Finding {
  size_t begin = 0, end = 0;
  std::string_view name;  // "email"; of a pattern "pattern"
};

// Appends what it finds, in no order; findings may overlap.
void FindSensitive(std::string_view text, const BodyRule& rule, std::vector<Finding>& out);

}  // namespace tidepool::platform
