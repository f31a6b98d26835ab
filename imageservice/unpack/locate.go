package unpack

// Locator finds the files of a layer's tar in the layer as Settle left it:
// where a path of the tar leads through a link of a lower layer, the file is
// where the link leads.
type Locator struct{ view *view }

// NewLocator opens layers, topmost first; the first one is the one in which
// files are to be found. The caller closes the Locator.
func NewLocator(layers []string) (*Locator, error) {
	v, err := openView(layers)
	if err != nil {
		return nil, err
	}
	return &Locator{v}, nil
}

// Close closes the layers.
func (l *Locator) Close() { l.view.close() }

// Locate gives the path below the layer of the file that its tar calls name.
// It does not say that there is one.
func (l *Locator) Locate(name string) (string, error) {
	name, err := cleanName(name)
	if err != nil {
		return "", err
	}
	return l.view.resolveParent(name)
}
