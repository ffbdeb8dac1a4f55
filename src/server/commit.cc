// Its own file, so that a new commit compiles these lines and nothing else.
#include "server/server.h"

namespace tidepool::server {

const char* const kCommit = TIDEPOOL_COMMIT;

}  // namespace tidepool::server
