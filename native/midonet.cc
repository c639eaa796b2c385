#include <napi.h>

#include "ethtool.h"
#include "namespace.h"
#include "netlink_socket.h"
#include "receiver.h"

static Napi::Object Init(Napi::Env env, Napi::Object exports) {
  exports.Set("Receiver", Receiver::Define(env));
  exports.Set("NetlinkSocket", NetlinkSocket::Define(env));
  exports.Set("withNamespace", Napi::Function::New<WithNamespace>(env, "withNamespace"));
  exports.Set("namespaceType", Napi::Function::New<NamespaceType>(env, "namespaceType"));
  exports.Set("ioctlEthtool", Napi::Function::New<IoctlEthtool>(env, "ioctlEthtool"));
  return exports;
}

NODE_API_MODULE(midonet, Init)
