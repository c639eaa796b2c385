export default {
  files: ['build/test/**/*.test.js'],
  environmentVariables: { NODE_ENV: 'test' },
  timeout: '60s',
};
