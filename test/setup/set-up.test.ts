import { readFileSync } from 'node:fs';
import test from 'ava';
import { modulesFit } from '#setup/project.mjs';
import { selectTests } from '#setup/tests.mjs';

const LOCKED = {
  '': { version: '0.1.0' },
  'node_modules/a': { version: '1.0.0' },
  'node_modules/for-another-machine': { version: '2.0.0', optional: true },
};

test('npm ci is needed when a package is missing or has another version', (t) => {
  t.true(modulesFit(LOCKED, { 'node_modules/a': { version: '1.0.0' } }));
  t.false(modulesFit(LOCKED, {}));
  t.false(modulesFit(LOCKED, { 'node_modules/a': { version: '1.0.1' } }));
  t.false(modulesFit(LOCKED, { 'node_modules/b': { version: '1.0.0' } }));
  t.false(modulesFit(LOCKED, { ...LOCKED, 'node_modules/for-another-machine': { version: '1.9.9' } }));
});

test('package-lock.json has an entry for every optional package: npm ci refuses it otherwise', (t) => {
  interface Locked {
    version?: string;
    optionalDependencies?: Record<string, string>;
  }
  const { packages } = JSON.parse(readFileSync('package-lock.json', 'utf8')) as { packages: Record<string, Locked> };
  for (const [path, { optionalDependencies = {} }] of Object.entries(packages)) {
    for (const name of Object.keys(optionalDependencies)) {
      const places = [`${path}/node_modules/${name}`, `node_modules/${name}`];
      t.true(
        places.some((place) => packages[place]?.version),
        `${name}, which ${path} names`,
      );
    }
  }
});

const BUILT = [
  'build/test/kernel/vm.test.js',
  'build/test/kernel/image.js',
  'build/test/flow/key.test.js',
  'build/test/flow/key.test.js.map',
  'build/test/flow-other/x.test.js',
];

test('test files are chosen by source, by output or by folder', (t) => {
  const key = 'build/test/flow/key.test.js';
  t.deepEqual(selectTests(BUILT, []), [
    'build/test/flow-other/x.test.js',
    'build/test/flow/key.test.js',
    'build/test/kernel/vm.test.js',
  ]);
  t.deepEqual(selectTests(BUILT, ['test/flow/key.test.ts']), [key]);
  t.deepEqual(selectTests(BUILT, ['build/test/flow/key.test.js']), [key]);
  t.deepEqual(selectTests(BUILT, ['test/flow/', 'test/flow']), [key]);
  t.throws(() => selectTests(BUILT, ['test/nothing']), { message: /test\/nothing/ });
});
