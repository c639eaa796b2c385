import { createRequire } from 'node:module';
import { Router } from 'express';
import { openApiDocument } from './openapi.js';

/**
 * `/v1/openapi.json`, and `/docs` for reading and trying it in a browser. They say nothing that is not public, so they are
 * served to everybody: a browser that follows a link has no token to show.
 */
export function documentRoutes(): Router {
  const router = Router();
  // One for all who are being sent it, however slowly they read.
  let document: Buffer | undefined;
  router.get('/v1/openapi.json', (_request, response) => {
    document ??= Buffer.from(JSON.stringify(openApiDocument()));
    response.type('json').send(document);
  });
  router.get('/docs', (_request, response) => {
    response.set('Content-Security-Policy', POLICY).type('html').send(PAGE);
  });
  router.get('/docs/rapidoc.js', (_request, response) => {
    response.set('Cache-Control', 'public, max-age=86400').sendFile(viewerFile(), { dotfiles: 'allow' });
  });
  return router;
}

/** All that the page needs comes from here. The viewer sets styles of its elements itself. */
const POLICY = [
  "default-src 'none'",
  "script-src 'self'",
  "style-src 'self' 'unsafe-inline'",
  "img-src 'self' data:",
  "connect-src 'self'",
  "base-uri 'none'",
  "form-action 'none'",
  "frame-ancestors 'none'",
].join('; ');

const PAGE = `<!doctype html>
<html lang="en">
  <head>
    <meta charset="utf-8">
    <meta name="viewport" content="width=device-width, initial-scale=1">
    <title>MidoNet API</title>
    <link rel="icon" href="data:,">
    <script type="module" src="/docs/rapidoc.js"></script>
  </head>
  <body>
    <rapi-doc
      spec-url="/v1/openapi.json"
      render-style="read"
      show-header="false"
      load-fonts="false"
      regular-font="system-ui, sans-serif"
      mono-font="ui-monospace, monospace"
      schema-style="table"
      show-method-in-nav-bar="as-colored-text"
      allow-server-selection="false"
      persist-auth="false"
    ></rapi-doc>
    <noscript>The document itself is at <a href="/v1/openapi.json">/v1/openapi.json</a>.</noscript>
  </body>
</html>
`;

function viewerFile(): string {
  return createRequire(import.meta.url).resolve('rapidoc/dist/rapidoc-min.js');
}
