// Built without the web application (no Node.js at hand, or -DTIDEPOOL_WEB=OFF).
#include "gateway/web_app.h"

namespace tidepool::gateway {

std::span<const WebAsset> WebAssets() { return {}; }

}  // namespace tidepool::gateway
