// The tables of accounts and audit.
#pragma once

#include "platform/store/database.h"

namespace tidepool::platform {

// For Database::Migrate.
store::MigrationList AccountsMigrations();

}  // namespace tidepool::platform
