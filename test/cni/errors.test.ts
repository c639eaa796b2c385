import test from 'ava';
import { CniCode, toCniError } from '../../cni/errors.js';
import { StoreFrozenError, StoreFullError, StoreUnavailableError } from '../../src/nsdb/store.js';

for (const error of [
  new StoreUnavailableError('create', '/a', false, 'not connected'),
  new StoreFullError('create', '/a'),
  new StoreFrozenError('create', '/a', 'zk1:2181'),
]) {
  test(`an NSDB that takes no changes (${error.code}) may take them later: code 11`, (t) => {
    t.like(toCniError(error), { cniCode: CniCode.TryAgainLater, message: error.message, details: error.code });
  });
}
