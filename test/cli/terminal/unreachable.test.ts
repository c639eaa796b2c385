import test from 'ava';
import { ApiError } from '../../../src/api/client/client.js';
import { adviceOn } from '../../../src/cli/terminal/unreachable.js';
import { MidonetError } from '../../../src/errors.js';

const failed = (code: string) =>
  adviceOn(new MidonetError('MN_API_UNAVAILABLE', 'x', { cause: Object.assign(new Error(), { code }) }));

test('what to do about a server depends on why it is not reached', (t) => {
  t.regex(failed('ECONNREFUSED') ?? '', /--server or MIDONET_API/);
  t.regex(failed('ECONNRESET') ?? '', /https:/);
  t.regex(failed('EPROTO') ?? '', /http:/);
  t.regex(failed('DEPTH_ZERO_SELF_SIGNED_CERT') ?? '', /--ca FILE/);
  t.is(failed('EMFILE'), undefined);
  t.regex(adviceOn(new ApiError('MN_STORE_UNAVAILABLE', 'x', 503)) ?? '', /midonet nsdb status/);
  t.is(adviceOn(new MidonetError('MN_STORE_UNAVAILABLE', 'of a command that asks the NSDB itself')), undefined);
  t.is(adviceOn(new MidonetError('MN_NOT_FOUND', 'x')), undefined);
});
