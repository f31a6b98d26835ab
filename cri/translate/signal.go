package translate

import (
	"strings"

	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// aliases are the second names in CRI's enumeration. The domain knows each
// signal by one name.
var aliases = map[string]string{"SIGCLD": "SIGCHLD", "SIGIOT": "SIGABRT", "SIGPOLL": "SIGIO"}

// signalName gives the usual name of a signal, "SIGTERM" or "SIGRTMIN+3",
// and "" for the default.
func signalName(s criv1.Signal) (string, error) {
	if s == criv1.Signal_SIGNAL_RUNTIME_DEFAULT {
		return "", nil
	}
	name, ok := criv1.Signal_name[int32(s)]
	if !ok {
		return "", invalid("unknown stop_signal %d", s)
	}
	name = strings.TrimPrefix(name, "SIGNAL_")
	if one, ok := aliases[name]; ok {
		name = one
	}
	return strings.NewReplacer("RTMINPLUS", "RTMIN+", "RTMAXMINUS", "RTMAX-").Replace(name), nil
}

// criSignal is the reverse. A signal that CRI cannot name, such as one that an
// image gives as a number, is the default: the field is for display.
func criSignal(name string) criv1.Signal {
	key := strings.NewReplacer("RTMIN+", "RTMINPLUS", "RTMAX-", "RTMAXMINUS").Replace(name)
	return criv1.Signal(criv1.Signal_value["SIGNAL_"+key])
}
