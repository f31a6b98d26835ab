// Package manifest reads and writes Pods of Kubernetes (v1) as far as one node
// can honour them without a cluster.
//
// Model. A Pod here has Kubernetes' names and meaning, and only the fields that
// are honoured. Parse makes one of YAML or JSON, Plan makes of it what the pods
// domain is asked for, Of makes one of what the domain was asked for, and Text
// writes it.
//
// Law. Nothing is dropped in silence: a field that is not honoured is an error
// with its line, and so is a value that cannot work. All errors of a text are
// told together, before anything is done. What is absent, null or empty is not
// there. The package is pure.
package manifest

// Pod is a v1 Pod.
type Pod struct {
	APIVersion string   `yaml:"apiVersion"`
	Kind       string   `yaml:"kind"`
	Metadata   Metadata `yaml:"metadata"`
	Spec       Spec     `yaml:"spec"`
}

// Metadata names a pod.
type Metadata struct {
	Name        string            `yaml:"name"`
	Namespace   string            `yaml:"namespace,omitempty"`
	Labels      map[string]string `yaml:"labels,omitempty"`
	Annotations map[string]string `yaml:"annotations,omitempty"`
}

// Spec is a PodSpec.
type Spec struct {
	InitContainers                []Container  `yaml:"initContainers,omitempty"`
	Containers                    []Container  `yaml:"containers"`
	Volumes                       []Volume     `yaml:"volumes,omitempty"`
	RestartPolicy                 string       `yaml:"restartPolicy,omitempty"`
	TerminationGracePeriodSeconds *int64       `yaml:"terminationGracePeriodSeconds,omitempty"`
	Hostname                      string       `yaml:"hostname,omitempty"`
	HostNetwork                   bool         `yaml:"hostNetwork,omitempty"`
	HostPID                       bool         `yaml:"hostPID,omitempty"`
	HostIPC                       bool         `yaml:"hostIPC,omitempty"`
	ShareProcessNamespace         bool         `yaml:"shareProcessNamespace,omitempty"`
	DNSPolicy                     string       `yaml:"dnsPolicy,omitempty"`
	DNSConfig                     *DNSConfig   `yaml:"dnsConfig,omitempty"`
	RuntimeClassName              string       `yaml:"runtimeClassName,omitempty"`
	SecurityContext               *PodSecurity `yaml:"securityContext,omitempty"`
	// Of these only the value that one node without a cluster has anyway.
	EnableServiceLinks           *bool `yaml:"enableServiceLinks,omitempty"`
	AutomountServiceAccountToken *bool `yaml:"automountServiceAccountToken,omitempty"`
}

// Container is a container of a pod, or one that runs before those.
type Container struct {
	Name            string           `yaml:"name"`
	Image           string           `yaml:"image"`
	ImagePullPolicy string           `yaml:"imagePullPolicy,omitempty"`
	Command         []string         `yaml:"command,omitempty"`
	Args            []string         `yaml:"args,omitempty"`
	WorkingDir      string           `yaml:"workingDir,omitempty"`
	Env             []Env            `yaml:"env,omitempty"`
	Ports           []Port           `yaml:"ports,omitempty"`
	Resources       *Resources       `yaml:"resources,omitempty"`
	VolumeMounts    []VolumeMount    `yaml:"volumeMounts,omitempty"`
	SecurityContext *SecurityContext `yaml:"securityContext,omitempty"`
	RestartPolicy   string           `yaml:"restartPolicy,omitempty"` // of init containers: Always makes a sidecar
	Stdin           bool             `yaml:"stdin,omitempty"`
	StdinOnce       bool             `yaml:"stdinOnce,omitempty"`
	TTY             bool             `yaml:"tty,omitempty"`
}

// Sidecar tells whether an init container goes on beside those that follow it.
func (c *Container) Sidecar() bool { return c.RestartPolicy == "Always" }

// Env is one variable.
type Env struct {
	Name      string     `yaml:"name"`
	Value     string     `yaml:"value,omitempty"`
	ValueFrom *EnvSource `yaml:"valueFrom,omitempty"`
}

// EnvSource is where the value of a variable comes from.
type EnvSource struct {
	FieldRef *FieldRef `yaml:"fieldRef"`
}

// FieldRef is a field of the pod's own.
type FieldRef struct {
	APIVersion string `yaml:"apiVersion,omitempty"`
	FieldPath  string `yaml:"fieldPath"`
}

// Port is a port that a container listens on.
type Port struct {
	Name          string `yaml:"name,omitempty"`
	ContainerPort uint16 `yaml:"containerPort"`
	HostPort      uint16 `yaml:"hostPort,omitempty"`
	HostIP        string `yaml:"hostIP,omitempty"`
	Protocol      string `yaml:"protocol,omitempty"`
}

// Resources are limits by the names cpu and memory, and what is asked for.
type Resources struct {
	Limits   map[string]Quantity `yaml:"limits,omitempty"`
	Requests map[string]Quantity `yaml:"requests,omitempty"`
}

// VolumeMount shows a volume in a container.
type VolumeMount struct {
	Name              string `yaml:"name"`
	MountPath         string `yaml:"mountPath"`
	SubPath           string `yaml:"subPath,omitempty"`
	ReadOnly          bool   `yaml:"readOnly,omitempty"`
	RecursiveReadOnly string `yaml:"recursiveReadOnly,omitempty"`
	MountPropagation  string `yaml:"mountPropagation,omitempty"`
}

// Volume is one of its sources.
type Volume struct {
	Name     string       `yaml:"name"`
	HostPath *HostPath    `yaml:"hostPath,omitempty"`
	EmptyDir *EmptyDir    `yaml:"emptyDir,omitempty"`
	Image    *ImageVolume `yaml:"image,omitempty"`
}

// HostPath is a path of the host.
type HostPath struct {
	Path string `yaml:"path"`
	Type string `yaml:"type,omitempty"`
}

// EmptyDir is a directory that lives as long as the pod.
type EmptyDir struct {
	Medium    string   `yaml:"medium,omitempty"`
	SizeLimit Quantity `yaml:"sizeLimit,omitempty"`
}

// ImageVolume is the content of an image.
type ImageVolume struct {
	Reference  string `yaml:"reference"`
	PullPolicy string `yaml:"pullPolicy,omitempty"`
}

// DNSConfig is what resolv.conf says.
type DNSConfig struct {
	Nameservers []string    `yaml:"nameservers,omitempty"`
	Searches    []string    `yaml:"searches,omitempty"`
	Options     []DNSOption `yaml:"options,omitempty"`
}

// DNSOption is an option of resolv.conf.
type DNSOption struct {
	Name  string  `yaml:"name"`
	Value *string `yaml:"value,omitempty"`
}

// PodSecurity is what holds for all containers that do not say otherwise.
type PodSecurity struct {
	RunAsUser                *int64           `yaml:"runAsUser,omitempty"`
	RunAsGroup               *int64           `yaml:"runAsGroup,omitempty"`
	RunAsNonRoot             *bool            `yaml:"runAsNonRoot,omitempty"`
	SupplementalGroups       []int64          `yaml:"supplementalGroups,omitempty"`
	SupplementalGroupsPolicy string           `yaml:"supplementalGroupsPolicy,omitempty"`
	Sysctls                  []Sysctl         `yaml:"sysctls,omitempty"`
	SeccompProfile           *SecurityProfile `yaml:"seccompProfile,omitempty"`
	AppArmorProfile          *SecurityProfile `yaml:"appArmorProfile,omitempty"`
	SELinuxOptions           *SELinux         `yaml:"seLinuxOptions,omitempty"`
}

// Sysctl is a setting of the pod's namespaces.
type Sysctl struct {
	Name  string `yaml:"name"`
	Value string `yaml:"value"`
}

// SecurityProfile is one of seccomp or AppArmor.
type SecurityProfile struct {
	Type             string `yaml:"type"`
	LocalhostProfile string `yaml:"localhostProfile,omitempty"`
}

// SELinux is a label.
type SELinux struct {
	User  string `yaml:"user,omitempty"`
	Role  string `yaml:"role,omitempty"`
	Type  string `yaml:"type,omitempty"`
	Level string `yaml:"level,omitempty"`
}

// SecurityContext is that of one container.
type SecurityContext struct {
	RunAsUser                *int64           `yaml:"runAsUser,omitempty"`
	RunAsGroup               *int64           `yaml:"runAsGroup,omitempty"`
	RunAsNonRoot             *bool            `yaml:"runAsNonRoot,omitempty"`
	Privileged               bool             `yaml:"privileged,omitempty"`
	ReadOnlyRootFilesystem   bool             `yaml:"readOnlyRootFilesystem,omitempty"`
	AllowPrivilegeEscalation *bool            `yaml:"allowPrivilegeEscalation,omitempty"`
	Capabilities             *Capabilities    `yaml:"capabilities,omitempty"`
	SeccompProfile           *SecurityProfile `yaml:"seccompProfile,omitempty"`
	AppArmorProfile          *SecurityProfile `yaml:"appArmorProfile,omitempty"`
	SELinuxOptions           *SELinux         `yaml:"seLinuxOptions,omitempty"`
}

// Capabilities are added to those of every container, or taken from them.
type Capabilities struct {
	Add  []string `yaml:"add,omitempty"`
	Drop []string `yaml:"drop,omitempty"`
}
