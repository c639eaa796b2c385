#pragma once

#include <napi.h>

// Throws a JavaScript Error with the properties `errno` (positive) and `syscall`.
void ThrowSystemError(Napi::Env env, const char* syscall, int error);
