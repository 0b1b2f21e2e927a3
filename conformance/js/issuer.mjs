// The OpenID-certified oidc-provider, unmodified, as an issuer for the sign-in of Curfew. It takes its settings from ISSUER_SETTINGS (JSON:
// issuer, port, clients, accounts), prints one line of JSON when it listens, and obeys lines of JSON on stdin; each is answered by one.
//
//   {"do":"account","name":N,"claims":{…}}   what it vouches for from now on
//   {"do":"disable","name":N}                the account is gone
//   {"do":"revoke","name":N}                 every grant that the account gave is withdrawn
import { createInterface } from 'node:readline'
import Provider from 'oidc-provider'

const settings = JSON.parse(process.env.ISSUER_SETTINGS)
const accounts = new Map(Object.entries(settings.accounts))
const grants = new Map() // account → grants
const events = []

const provider = new Provider(settings.issuer, {
	clients: settings.clients,
	claims: { openid: ['sub', 'preferred_username', 'name', 'groups', 'roles', 'tid', 'oid'] },
	conformIdTokenClaims: false, // groups stand in the id_token, as at Entra
	features: { deviceFlow: { enabled: true }, revocation: { enabled: true } },
	async findAccount(_ctx, id) {
		const claims = accounts.get(id)
		return claims && { accountId: id, claims: async () => ({ sub: `sub-of-${id}`, ...claims }) }
	},
	async issueRefreshToken(_ctx, client, _code) { return client.grantTypeAllowed('refresh_token') },
	rotateRefreshToken: true,
	pkce: { required: () => true },
	ttl: { AccessToken: 60, AuthorizationCode: 60, DeviceCode: 600, Grant: 86400, IdToken: 3600, Interaction: 600, RefreshToken: 86400, Session: 86400 },
	cookies: { keys: ['not a secret'] },
})
const note = (t) => {
	if (!grants.has(t.accountId)) grants.set(t.accountId, new Set())
	grants.get(t.accountId).add(t.grantId)
}
provider.on('refresh_token.saved', note)
provider.on('grant.success', (ctx) => events.push(`granted ${ctx.oidc.params.grant_type}`))
provider.on('grant.error', (ctx, err) => events.push(`refused ${ctx.oidc.params?.grant_type}: ${err.error} ${err.error_detail ?? ''}`))
provider.on('grant.revoked', (_ctx, id) => events.push(`revoked ${id}`))
provider.on('server_error', (_ctx, err) => console.error(err))

const commands = {
	account({ name, claims }) { accounts.set(name, claims) },
	disable({ name }) { accounts.delete(name) },
	async revoke({ name }) {
		const ids = [...(grants.get(name) ?? [])]
		if (ids.length === 0) throw new Error(`${name} gave no grant`)
		for (const id of ids) {
			await provider.RefreshToken.revokeByGrantId(id)
			await (await provider.Grant.find(id))?.destroy()
		}
		grants.delete(name)
	},
	events() { return events.splice(0) },
}

const say = (v) => process.stdout.write(JSON.stringify(v) + '\n')
const server = provider.listen(settings.port, '127.0.0.1', () => say({ url: `http://127.0.0.1:${server.address().port}` }))
createInterface({ input: process.stdin }).on('line', async (line) => {
	try {
		const c = JSON.parse(line)
		say({ ok: (await commands[c.do](c)) ?? true })
	} catch (err) {
		say({ error: String(err) })
	}
}).on('close', () => process.exit(0))
