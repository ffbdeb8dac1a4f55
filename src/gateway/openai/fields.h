// The field tables of gateway/fields.h under the name that this folder's readers use.
#pragma once

#include "gateway/fields.h"

namespace tidepool::gateway::openai {

using gateway::BadField;
using gateway::CheckFields;
using gateway::Field;
using gateway::FieldReader;
using gateway::FieldType;
using gateway::IgnoredHeader;
using gateway::Json;
using gateway::SchemaOf;
using gateway::Shown;
using gateway::TemplateMember;
using gateway::Treatment;
using gateway::Unlisted;

}  // namespace tidepool::gateway::openai
