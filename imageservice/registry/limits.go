package registry

// Limits on what a host may send. Blobs have the size of their descriptor for
// one, which the caller bounds.
const (
	MaxManifest = 4 << 20 // bytes, as the distribution specification advises

	maxHeaders    = 1 << 20   // bytes of all headers of an answer
	maxToken      = 128 << 10 // bytes of the answer of a token server
	maxErrorBody  = 16 << 10  // bytes read of an answer that is a refusal
	maxSaid       = 300       // bytes of a host's own words in an error
	maxRedirects  = 10        // in a row, as net/http has it by default
	maxChallenges = 16        // in an answer, and parameters of each
	maxRealm      = 4 << 10   // bytes of a realm, a service, or a scope of a challenge
	maxScopes     = 16        // of a challenge, for which a token is asked
	maxHostsFile  = 1 << 20   // bytes of a hosts.toml
)
