import type { ServerResponse } from 'node:http';

/**
 * Signals that end after some time. Here a timer holds them: a signal of AbortSignal.timeout that only AbortSignal.any knows of is forgotten by
 * Node.js 20 when it collects garbage, and its time never comes.
 */

/** Ends when the other signal does, or after so long with a TimeoutError, as AbortSignal.timeout does. */
export function within(milliseconds: number, other: AbortSignal): AbortSignal {
  const late = new AbortController();
  setTimeout(() => late.abort(timeoutError()), milliseconds).unref();
  return AbortSignal.any([late.signal, other]);
}

/** Ends when the answer has been given or its client is gone, or after so long with a TimeoutError. */
export function endOf(response: ServerResponse, milliseconds: number): AbortSignal {
  const end = new AbortController();
  const timer = setTimeout(() => end.abort(timeoutError()), milliseconds);
  timer.unref();
  response.once('close', () => {
    clearTimeout(timer);
    end.abort();
  });
  return end.signal;
}

function timeoutError(): DOMException {
  return new DOMException('The operation was aborted due to timeout', 'TimeoutError');
}
