// What is in test/kernel needs a kernel with openvswitch: npm test runs it in the VM (docs/development.md). Naming such a file to
// ava elsewhere is an error, not a skip.
const inVm = process.env.MIDONET_IN_VM === '1';

export default {
  files: ['build/test/**/*.test.js', ...(inVm ? [] : ['!build/test/kernel/**'])],
  environmentVariables: { NODE_ENV: 'test' },
  timeout: inVm ? '180s' : '120s',
};
