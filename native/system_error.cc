#include "system_error.h"

#include <cstring>
#include <string>

void ThrowSystemError(Napi::Env env, const char* syscall, int error) {
  Napi::Error thrown = Napi::Error::New(env, std::string(syscall) + ": " + std::strerror(error));
  thrown.Set("errno", Napi::Number::New(env, error));
  thrown.Set("syscall", Napi::String::New(env, syscall));
  thrown.ThrowAsJavaScriptException();
}
