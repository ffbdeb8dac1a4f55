// JSON schema (draft 2020-12, with the older spellings that clients still send) as a grammar.
//
// What comes out always validates: a keyword that cannot be enforced is refused with its JSON pointer, never
// loosened. It may be narrower than the schema:
//  - properties come in the order of the schema; where some are named, others come only if
//    additionalProperties says so;
//  - keys that no property names have at most 128 characters, at most the first 64 as a name that is there;
//  - white space is bounded, numbers have at most 16 digits before the point and as many after it;
//  - a schema without `type` that has keywords of some types gives only those;
//  - oneOf is compiled where no text of one branch can satisfy another, and refused else.
// Enforced: type, enum, const, properties, required, additionalProperties, min/maxProperties, items,
// prefixItems, min/maxItems, min/maxLength, pattern (regex.h), format (date, time, date-time, duration, uuid,
// email, hostname, ipv4, ipv6, uri), minimum, maximum, exclusive ones, multipleOf (whole numbers up to 1024),
// anyOf, oneOf, allOf, $ref inside the document, recursion.
//
// Threads: one.
#pragma once

#include <nlohmann/json.hpp>

#include "base/result.h"
#include "models/grammar/expression.h"

namespace tidepool::grammar {

// Errors: "unsupported_schema" and "invalid_schema" with the keyword's JSON pointer in the message and in
// `param` (appended to `field`), "schema_too_complex". Compiling a hostile schema of half a megabyte takes at
// most seconds and 256 MiB (grammar_test.cc).
Result<ExprId> ParseJsonSchema(const nlohmann::ordered_json& schema, std::string_view field,
                               Expressions& out);

// Any JSON object.
ExprId AnyJsonObject(Expressions& out);

}  // namespace tidepool::grammar
