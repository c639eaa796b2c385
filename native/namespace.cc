#include "namespace.h"

#include <fcntl.h>
#include <linux/nsfs.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "system_error.h"

NamespaceScope::NamespaceScope(int fd) {
  if (fd < 0) {
    return;
  }
  home_ = open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC);
  if (home_ < 0) {
    error_ = errno;
    syscall_ = "open /proc/thread-self/ns/net";
    return;
  }
  if (setns(fd, CLONE_NEWNET) != 0) {
    error_ = errno;
    syscall_ = "setns";
    close(home_);
    home_ = -1;
  }
}

NamespaceScope::~NamespaceScope() {
  if (home_ < 0) {
    return;
  }
  if (setns(home_, CLONE_NEWNET) != 0) {
    std::fprintf(stderr, "midonet: cannot return to the network namespace the thread came from: %s\n",
                 std::strerror(errno));
    std::abort();
  }
  close(home_);
}

Napi::Value WithNamespace(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  if (info.Length() < 2 || !info[0].IsNumber() || !info[1].IsFunction()) {
    Napi::TypeError::New(env, "withNamespace(fd: number, function)").ThrowAsJavaScriptException();
    return env.Undefined();
  }
  NamespaceScope scope(info[0].As<Napi::Number>().Int32Value());
  if (scope.error() != 0) {
    ThrowSystemError(env, scope.syscall(), scope.error());
    return env.Undefined();
  }
  // What it throws stays pending and reaches the caller, after the scope has ended.
  return info[1].As<Napi::Function>().Call(env.Undefined(), std::initializer_list<napi_value>{});
}

Napi::Value NamespaceType(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  int type = ioctl(info[0].ToNumber().Int32Value(), NS_GET_NSTYPE);
  return Napi::Number::New(env, type < 0 ? -errno : type);
}
