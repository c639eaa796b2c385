#include "netlink_socket.h"

#include <linux/netlink.h>
#include <sys/socket.h>
#include <unistd.h>

#include <fcntl.h>

#include <cerrno>
#include <cstdlib>
#include <vector>

#include "libuv.h"
#include "namespace.h"
#include "system_error.h"

struct NetlinkSocket::Watch {
  uv_poll_s* handle = nullptr;
  NetlinkSocket* owner = nullptr;
  napi_async_cleanup_hook_handle cleanup = nullptr;

  uv_handle_s* base() { return reinterpret_cast<uv_handle_s*>(handle); }
};

namespace {
int SetOption(int fd, int level, int option, int value) {
  return setsockopt(fd, level, option, &value, sizeof value) == 0 ? 0 : errno;
}

// The size beyond the system's limit that CAP_NET_ADMIN allows; without it, what the limit allows.
int SetBufferSize(int fd, int forced, int option, int bytes) {
  if (bytes <= 0) {
    return 0;
  }
  int error = SetOption(fd, SOL_SOCKET, forced, bytes);
  return error == EPERM ? SetOption(fd, SOL_SOCKET, option, bytes) : error;
}

// The number of bytes taken, 0 if there is no room now, or a negative errno.
ssize_t SendNow(int fd, const uint8_t* bytes, size_t length) {
  ssize_t sent;
  do {
    sent = send(fd, bytes, length, MSG_DONTWAIT);
  } while (sent < 0 && errno == EINTR);
  if (sent < 0) {
    return errno == EAGAIN || errno == EWOULDBLOCK ? 0 : -errno;
  }
  return sent;
}

// A send on a thread of libuv's pool. It has a copy of the bytes and a descriptor of its own, as the socket may be closed
// meanwhile.
class BackgroundSend : public Napi::AsyncWorker {
 public:
  BackgroundSend(Napi::Function callback, int fd, const uint8_t* bytes, size_t length)
      : Napi::AsyncWorker(callback), fd_(fcntl(fd, F_DUPFD_CLOEXEC, 0)), bytes_(bytes, bytes + length) {
    if (fd_ < 0) {
      result_ = -errno;
    }
  }
  ~BackgroundSend() override {
    if (fd_ >= 0) {
      close(fd_);
    }
  }
  void Execute() override {
    if (fd_ >= 0) {
      result_ = SendNow(fd_, bytes_.data(), bytes_.size());
    }
  }
  std::vector<napi_value> GetResult(Napi::Env env) override {
    return {Napi::Number::New(env, static_cast<double>(result_))};
  }

 private:
  int fd_;
  ssize_t result_ = 0;
  std::vector<uint8_t> bytes_;
};

int NumberOption(Napi::Object options, const char* name, int otherwise) {
  Napi::Value value = options.Get(name);
  return value.IsNumber() ? value.As<Napi::Number>().Int32Value() : otherwise;
}
}  // namespace

Napi::Function NetlinkSocket::Define(Napi::Env env) {
  return DefineClass(env, "NetlinkSocket",
                     {InstanceAccessor<&NetlinkSocket::PortId>("portId"),
                      InstanceMethod<&NetlinkSocket::Send>("send"),
                      InstanceMethod<&NetlinkSocket::SendInBackground>("sendInBackground"),
                      InstanceMethod<&NetlinkSocket::ReceiveNow>("receive"),
                      InstanceMethod<&NetlinkSocket::Membership>("membership"),
                      InstanceMethod<&NetlinkSocket::Start>("start"),
                      InstanceMethod<&NetlinkSocket::Keep>("keep"),
                      InstanceMethod<&NetlinkSocket::CloseFromScript>("close")});
}

NetlinkSocket::NetlinkSocket(const Napi::CallbackInfo& info) : Napi::ObjectWrap<NetlinkSocket>(info) {
  Napi::Env env = info.Env();
  if (info.Length() < 2 || !info[0].IsObject() || !info[1].IsObject()) {
    Napi::TypeError::New(env, "NetlinkSocket(receiver, options)").ThrowAsJavaScriptException();
    return;
  }
  Napi::Object receiver = info[0].As<Napi::Object>();
  receiver_ = Receiver::Unwrap(receiver);
  if (receiver_ == nullptr) {
    return;
  }
  receiver_object_ = Napi::Persistent(receiver);
  Napi::Object options = info[1].As<Napi::Object>();
  int limit = NumberOption(options, "batch", 0);
  limit_ = limit > 0 ? static_cast<unsigned>(limit) : receiver_->slots();
  const char* syscall = "";
  int error = Open(options, &syscall);
  if (error != 0) {
    if (fd_ >= 0) {
      close(fd_);
      fd_ = -1;
    }
    ThrowSystemError(env, syscall, error);
  }
}

NetlinkSocket::~NetlinkSocket() { Close(); }

int NetlinkSocket::Open(Napi::Object options, const char** syscall) {
  {
    NamespaceScope scope(NumberOption(options, "namespaceFd", -1));
    if (scope.error() != 0) {
      *syscall = scope.syscall();
      return scope.error();
    }
    *syscall = "socket";
    fd_ = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, NumberOption(options, "protocol", 0));
    if (fd_ < 0) {
      return errno;
    }
  }
  *syscall = "setsockopt";
  int error = SetBufferSize(fd_, SO_RCVBUFFORCE, SO_RCVBUF, NumberOption(options, "receiveBuffer", 0));
  if (error == 0) {
    error = SetBufferSize(fd_, SO_SNDBUFFORCE, SO_SNDBUF, NumberOption(options, "sendBuffer", 0));
  }
  if (error == 0) {
    error = SetOption(fd_, SOL_NETLINK, NETLINK_EXT_ACK, 1);
  }
  if (error == 0) {
    error = SetOption(fd_, SOL_NETLINK, NETLINK_CAP_ACK, 1);
  }
  if (error == 0 && options.Get("strict").ToBoolean().Value()) {
    error = SetOption(fd_, SOL_NETLINK, NETLINK_GET_STRICT_CHK, 1);
  }
  if (error != 0) {
    return error;
  }
  sockaddr_nl address{};
  address.nl_family = AF_NETLINK;
  *syscall = "bind";
  if (bind(fd_, reinterpret_cast<sockaddr*>(&address), sizeof address) != 0) {
    return errno;
  }
  // Connected to the kernel, the socket takes no unicast from other processes.
  *syscall = "connect";
  if (connect(fd_, reinterpret_cast<sockaddr*>(&address), sizeof address) != 0) {
    return errno;
  }
  *syscall = "getsockname";
  socklen_t length = sizeof address;
  if (getsockname(fd_, reinterpret_cast<sockaddr*>(&address), &length) != 0) {
    return errno;
  }
  port_id_ = address.nl_pid;
  return 0;
}

Napi::Value NetlinkSocket::PortId(const Napi::CallbackInfo& info) { return Napi::Number::New(info.Env(), port_id_); }

// send(bytes, offset, length): the number of bytes taken, 0 if the caller should try again later, or a negative errno.
Napi::Value NetlinkSocket::Send(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  if (info.Length() < 3 || !info[0].IsTypedArray()) {
    Napi::TypeError::New(env, "send(bytes: Uint8Array, offset: number, length: number)").ThrowAsJavaScriptException();
    return env.Undefined();
  }
  Napi::Uint8Array bytes = info[0].As<Napi::Uint8Array>();
  double offset = info[1].ToNumber().DoubleValue();
  double length = info[2].ToNumber().DoubleValue();
  if (!(offset >= 0 && length >= 0 && offset + length <= static_cast<double>(bytes.ByteLength()))) {
    Napi::RangeError::New(env, "send: the range lies outside the bytes").ThrowAsJavaScriptException();
    return env.Undefined();
  }
  if (fd_ < 0) {
    return Napi::Number::New(env, -EBADF);
  }
  ssize_t sent = SendNow(fd_, bytes.Data() + static_cast<size_t>(offset), static_cast<size_t>(length));
  return Napi::Number::New(env, static_cast<double>(sent));
}

// sendInBackground(bytes, callback): as send, but another thread waits for the kernel; callback gets the result.
Napi::Value NetlinkSocket::SendInBackground(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  if (info.Length() < 2 || !info[0].IsTypedArray() || !info[1].IsFunction()) {
    Napi::TypeError::New(env, "sendInBackground(bytes: Uint8Array, callback)").ThrowAsJavaScriptException();
    return env.Undefined();
  }
  Napi::Uint8Array bytes = info[0].As<Napi::Uint8Array>();
  // Deletes itself when done.
  (new BackgroundSend(info[1].As<Napi::Function>(), fd_, bytes.Data(), bytes.ByteLength()))->Queue();
  return env.Undefined();
}

// receive(): the number of datagrams now in the receiver, 0 when none waited, or a negative errno.
Napi::Value NetlinkSocket::ReceiveNow(const Napi::CallbackInfo& info) {
  return Napi::Number::New(info.Env(), fd_ < 0 ? -EBADF : receiver_->Receive(fd_, limit_));
}

// membership(group, on): 0 or a negative errno.
Napi::Value NetlinkSocket::Membership(const Napi::CallbackInfo& info) {
  if (fd_ < 0) {
    return Napi::Number::New(info.Env(), -EBADF);
  }
  int option = info[1].ToBoolean().Value() ? NETLINK_ADD_MEMBERSHIP : NETLINK_DROP_MEMBERSHIP;
  return Napi::Number::New(info.Env(), -SetOption(fd_, SOL_NETLINK, option, info[0].ToNumber().Int32Value()));
}

// start(callback): from now on callback(count) is called when there is something to read, with what receive() returns. It
// does not keep the process alive until keep(true).
void NetlinkSocket::Start(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  if (info.Length() < 1 || !info[0].IsFunction()) {
    Napi::TypeError::New(env, "start(callback)").ThrowAsJavaScriptException();
    return;
  }
  if (fd_ < 0 || watch_ != nullptr) {
    Napi::Error::New(env, "start: the socket is closed or started already").ThrowAsJavaScriptException();
    return;
  }
  uv_loop_s* loop = nullptr;
  if (napi_get_uv_event_loop(env, &loop) != napi_ok) {
    Napi::Error::New(env, "start: there is no event loop").ThrowAsJavaScriptException();
    return;
  }
  auto* handle = static_cast<uv_poll_s*>(std::calloc(1, uv_handle_size(UV_HANDLE_POLL)));
  int error = handle == nullptr ? -ENOMEM : uv_poll_init(loop, handle, fd_);
  if (error != 0) {
    std::free(handle);
    ThrowSystemError(env, "uv_poll_init", -error);
    return;
  }
  watch_ = new Watch;
  watch_->handle = handle;
  watch_->owner = this;
  uv_handle_set_data(watch_->base(), watch_);
  uv_unref(watch_->base());
  // When the thread's environment ends before the socket was closed, the handle still has to leave the event loop.
  napi_add_async_cleanup_hook(
      env,
      [](napi_async_cleanup_hook_handle, void* data) {
        auto* watch = static_cast<Watch*>(data);
        if (watch->owner != nullptr) {
          watch->owner->Close();
        }
      },
      watch_, &watch_->cleanup);
  callback_ = Napi::Persistent(info[0].As<Napi::Function>());
  uv_poll_start(handle, UV_EVENT_READABLE, Ready);
}

// keep(on): whether waiting on this socket keeps the process alive.
void NetlinkSocket::Keep(const Napi::CallbackInfo& info) {
  if (watch_ != nullptr) {
    if (info[0].ToBoolean().Value()) {
      uv_ref(watch_->base());
    } else {
      uv_unref(watch_->base());
    }
  }
}

void NetlinkSocket::CloseFromScript(const Napi::CallbackInfo&) { Close(); }

void NetlinkSocket::Close() {
  if (watch_ != nullptr) {
    Watch* watch = watch_;
    watch_ = nullptr;
    watch->owner = nullptr;
    uv_poll_stop(watch->handle);
    uv_close(watch->base(), [](uv_handle_s* handle) {
      auto* closed = static_cast<Watch*>(uv_handle_get_data(handle));
      if (closed->cleanup != nullptr) {
        napi_remove_async_cleanup_hook(closed->cleanup);
      }
      std::free(closed->handle);
      delete closed;
    });
  }
  if (fd_ >= 0) {
    close(fd_);
    fd_ = -1;
  }
}

void NetlinkSocket::Ready(uv_poll_s* handle, int status, int) {
  auto* watch = static_cast<Watch*>(uv_handle_get_data(reinterpret_cast<uv_handle_s*>(handle)));
  if (watch->owner != nullptr) {
    watch->owner->Readable(status);
  }
}

void NetlinkSocket::Readable(int status) {
  int count = receiver_->Receive(fd_, limit_);
  if (status < 0 && watch_ != nullptr) {
    // libuv stops polling on any error, and one on a netlink socket is normal: ENOBUFS, when it overflowed.
    if (count == -EBADF) {
      Close();
    } else {
      uv_poll_start(watch_->handle, UV_EVENT_READABLE, Ready);
    }
  }
  if (count != 0) {
    Deliver(count);
  }
}

void NetlinkSocket::Deliver(int count) {
  Napi::Env env = callback_.Env();
  Napi::HandleScope scope(env);
  // The callback may close the socket, and with it let go of this object: keep it until the end.
  Napi::Object self = Value();
  callback_.MakeCallback(self, {Napi::Number::New(env, count)});
  if (env.IsExceptionPending()) {
    Napi::Value thrown = env.GetAndClearPendingException().Value();
    napi_fatal_exception(env, thrown);
  }
}
