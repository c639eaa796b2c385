// The part of libuv 1 that is used here. Node exports these functions, but node-api-headers does not come with uv.h. Types
// are opaque, so only names and calling conventions matter, which libuv keeps stable within version 1.
#pragma once

#include <cstddef>

extern "C" {
struct uv_loop_s;
struct uv_handle_s;
struct uv_poll_s;

size_t uv_handle_size(int type);
void* uv_handle_get_data(const uv_handle_s* handle);
void uv_handle_set_data(uv_handle_s* handle, void* data);
void uv_ref(uv_handle_s* handle);
void uv_unref(uv_handle_s* handle);
void uv_close(uv_handle_s* handle, void (*closed)(uv_handle_s* handle));
int uv_poll_init(uv_loop_s* loop, uv_poll_s* handle, int fd);
int uv_poll_start(uv_poll_s* handle, int events, void (*ready)(uv_poll_s* handle, int status, int events));
int uv_poll_stop(uv_poll_s* handle);
}

// enum uv_handle_type and enum uv_poll_event of uv.h
constexpr int UV_HANDLE_POLL = 8;
constexpr int UV_EVENT_READABLE = 1;
