// A provider of OpenID Connect (npm oidc-provider) with the client `shop`, whose callback path is the third argument.
// Prints its port as the first line, and exits when its input ends. The second argument is a folder of node_modules.
import http from 'node:http';
import { pathToFileURL } from 'node:url';

const [, , modules, callback, afterLogout] = process.argv;
const { default: Provider } = await import(pathToFileURL(`${modules}/oidc-provider/lib/index.js`));

let handle;
const server = http.createServer((request, response) => handle(request, response));
process.stdin.resume().on('end', () => process.exit(0));
server.listen(0, '127.0.0.1', () => {
  const { port } = server.address();
  const provider = new Provider(`http://127.0.0.1:${port}`, {
    clients: [{
      client_id: 'shop',
      client_secret: 's3cret',
      redirect_uris: [callback],
      post_logout_redirect_uris: [afterLogout],
      grant_types: ['authorization_code', 'refresh_token', 'client_credentials'],
    }],
    cookies: { keys: ['for tests only'] },
    // The ID token has what the scopes ask for.
    conformIdTokenClaims: false,
    claims: { openid: ['sub'], email: ['email'] },
    findAccount: (_, id) => ({ accountId: id, claims: () => ({ sub: id, email: `${id}@shop.test` }) }),
    features: {
      clientCredentials: { enabled: true },
      devInteractions: { enabled: true },
      introspection: { enabled: true },
      rpInitiatedLogout: { enabled: true },
    },
    issueRefreshToken: async () => true,
    pkce: { required: () => true, methods: ['S256'] },
    rotateRefreshToken: true,
    // Short, so that sessions are renewed while the test looks.
    ttl: { AccessToken: 2, ClientCredentials: 600 },
  });
  handle = provider.callback();
  console.log(port);
  // Nothing reads what the provider prints after that.
  console.info = () => {};
});
