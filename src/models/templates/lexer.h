// Splits a template into tokens exactly as jinja2 does with trim_blocks and lstrip_blocks on.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "models/templates/runtime.h"

namespace tidepool::templates {

enum class TokenKind : uint8_t {
  kData,
  kVariableBegin,
  kVariableEnd,
  kBlockBegin,
  kBlockEnd,
  kName,
  kString,
  kInteger,
  kFloat,
  kOperator,  // `text` is the operator
  kEnd,
};

struct Token {
  TokenKind kind = TokenKind::kEnd;
  Position position;
  std::string text;  // of data, names, operators; the decoded value of strings
  Integer integer = 0;
  double real = 0;
};

// Fails with kInvalid and the line and column for what jinja2 calls a TemplateSyntaxError.
Result<std::vector<Token>> Tokenize(std::string_view source);

Error SyntaxError(Position position, std::string_view message);

}  // namespace tidepool::templates
