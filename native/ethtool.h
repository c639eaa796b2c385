#pragma once

#include <napi.h>

// ioctlEthtool(name, command, value): the value the driver left in `struct ethtool_value`. In the current namespace.
Napi::Value IoctlEthtool(const Napi::CallbackInfo& info);
