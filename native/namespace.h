#pragma once

#include <napi.h>

// Puts the calling thread into a network namespace for as long as it lives. Threads of the process are separate in this,
// so nothing else is affected. If there is no way back the process is aborted: everything it did from then on would
// happen in the wrong network.
class NamespaceScope {
 public:
  // A negative descriptor stands for the current namespace.
  explicit NamespaceScope(int fd);
  ~NamespaceScope();
  NamespaceScope(const NamespaceScope&) = delete;
  NamespaceScope& operator=(const NamespaceScope&) = delete;

  // 0, or the errno with which entering failed.
  int error() const { return error_; }
  const char* syscall() const { return syscall_; }

 private:
  int home_ = -1;
  int error_ = 0;
  const char* syscall_ = "";
};

// withNamespace(fd, function): what the function returns or throws.
Napi::Value WithNamespace(const Napi::CallbackInfo& info);

// namespaceType(fd): the CLONE_NEW… number of the kind of namespace, or a negative errno.
Napi::Value NamespaceType(const Napi::CallbackInfo& info);
