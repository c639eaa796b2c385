/** In a module of its own, so that it is loaded only where it is needed: a dynamic import of the package itself has other names in the bundle. */
export { parse as parseYaml } from 'yaml';
