#pragma once

#include <napi.h>

#include "receiver.h"

struct uv_poll_s;

// new NetlinkSocket(receiver, { protocol, namespaceFd, receiveBuffer, sendBuffer, strict }): a bound netlink socket that
// talks to the kernel only. Making one throws where a system call fails; after that failures are negative errno values.
class NetlinkSocket : public Napi::ObjectWrap<NetlinkSocket> {
 public:
  static Napi::Function Define(Napi::Env env);
  explicit NetlinkSocket(const Napi::CallbackInfo& info);
  ~NetlinkSocket() override;

 private:
  // What libuv holds on to until its handle is closed, which is after the socket object may be gone.
  struct Watch;

  Napi::Value PortId(const Napi::CallbackInfo& info);
  Napi::Value Send(const Napi::CallbackInfo& info);
  Napi::Value SendInBackground(const Napi::CallbackInfo& info);
  Napi::Value ReceiveNow(const Napi::CallbackInfo& info);
  Napi::Value Membership(const Napi::CallbackInfo& info);
  void Start(const Napi::CallbackInfo& info);
  void Keep(const Napi::CallbackInfo& info);
  void CloseFromScript(const Napi::CallbackInfo& info);

  int Open(Napi::Object options, const char** syscall);
  void Close();
  void Readable(int status);
  void Deliver(int count);
  static void Ready(uv_poll_s* handle, int status, int events);

  int fd_ = -1;
  uint32_t port_id_ = 0;
  unsigned limit_ = 0;
  Receiver* receiver_ = nullptr;
  Napi::ObjectReference receiver_object_;
  Napi::FunctionReference callback_;
  Watch* watch_ = nullptr;
};
