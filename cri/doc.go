// Package cri answers CRI v1, the kubelet's and crictl's interface, for one
// of berth's two sockets.
//
// Model. A Server is a view: that of berth.sock sees every pod, that of
// kubelet.sock only the pods made through it. Both stand on the same domains,
// pods and images. An RPC is one short method here: translate the request
// (package translate), call one verb of one domain, translate the answer.
// Waiting, ordering and retries are the domain's.
//
// Law. This package keeps no state and touches nothing of the machine. A
// domain's error goes up as it is; its kind becomes a gRPC code in one table
// (codes.go), applied by the interceptors, which also write the one log line
// of a call and stop a panic from ending the daemon. What this build does not
// do is left to the embedded Unimplemented servers, since the kubelet falls
// back on that code and on no other.
package cri
