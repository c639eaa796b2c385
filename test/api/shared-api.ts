import test from 'ava';
import { EmbeddedNsdb } from '../nsdb/embedded-nsdb.js';
import { TestApi } from './api-test.js';

/** The API before an embedded NSDB, one for all tests of the file that calls this: there from before the first until after the last. */
export function sharedApi(): { readonly api: TestApi; readonly nsdb: EmbeddedNsdb } {
  let nsdb: EmbeddedNsdb | undefined;
  let api: TestApi | undefined;
  test.before(async () => {
    nsdb = await EmbeddedNsdb.start();
    api = await TestApi.start(nsdb.store());
  });
  test.after.always(async () => {
    await api?.close();
    await nsdb?.close();
  });
  return {
    get api() {
      return api!;
    },
    get nsdb() {
      return nsdb!;
    },
  };
}
