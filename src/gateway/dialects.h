// Every kind of request that the dialects take, with the tables of its fields: what docs/dialects.md is
// generated from, and what dialects_test holds against the decoders.
//
// To add a dialect: a FieldTable for each object of its requests, made of the same fields that its decoder
// checks with FieldReader; a DialectRequest in dialects.cc; then TIDEPOOL_UPDATE=1
// build/src/gateway/gateway_dialects_test writes the document again.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "gateway/fields.h"

namespace tidepool::gateway {

struct FieldTable {
  std::string place;  // "": the request itself; else as the header Tidepool-Ignored names it: "tools[]"
  std::string kind;   // which of several kinds of object there, by the field that tells: "type: tool_use"
  std::string_view example;  // JSON of a request with such an object; empty: the request's own example
  std::string pointer;       // of the object in the example: "/tools/0"
  std::span<const Field> fields;
};

struct DialectRequest {
  std::string_view dialect;  // "Anthropic Messages"
  std::string_view paths;    // "POST /v1/messages, POST /anthropic/v1/messages"
  std::string_view example;  // JSON that the decoder takes, with no field that is ignored
  std::vector<FieldTable> tables;
  // The fields that are ignored with a chat template that mentions none, or the error.
  Result<std::vector<std::string>> (*decode)(const Json& body);
  std::string_view notes = {};  // what no table says
};

std::span<const DialectRequest> DialectRequests();
// docs/dialects.md.
std::string DialectsDocument();

}  // namespace tidepool::gateway
