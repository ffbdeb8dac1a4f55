// A sink in front of another: what passes is recorded. Threads: as ChatSink says.
#pragma once

#include <memory>

#include "platform/inference/inference.h"

namespace tidepool::platform {

std::shared_ptr<ChatSink> MakeRecordingSink(std::shared_ptr<ChatSink> sink,
                                            std::shared_ptr<BodyRecording> recording);

}  // namespace tidepool::platform
