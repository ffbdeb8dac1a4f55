// What a parameter's schema says its value is, for formats that write values without quotes.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

namespace tidepool::toolcalls {

struct PropertyTypes {
  bool string = false, number = false, integer = false, boolean = false, null = false;
  bool object = false, array = false;
  // The text is the value. So it is where the schema does not say what the value is.
  bool only_string() const { return !number && !integer && !boolean && !null && !object && !array; }
};

// type, enum, const and what anyOf, oneOf, allOf and $ref add to them; references are into `root`.
PropertyTypes TypesOf(const nlohmann::ordered_json& property, const nlohmann::ordered_json& root);

// What `property` is where all it says is a reference (or allOf of one); itself else.
const nlohmann::ordered_json& Referred(const nlohmann::ordered_json& property,
                                       const nlohmann::ordered_json& root);

// Words of a schema that promise nothing of a value.
bool IsAnnotation(std::string_view word);

// A value as it stands in the text, as JSON: of the first type that it can be (null, boolean, number, object,
// array, a JSON string), else a string.
std::string ValueAsJson(const std::string& text, const PropertyTypes& types);

}  // namespace tidepool::toolcalls
