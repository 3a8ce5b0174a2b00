package crash

type reader struct{}

type forking struct{}

func (s *sim) parkReaders()               {}
func (s *sim) resume(*reader)             {}
func (s *sim) look()                      {}
func (s *sim) forked(f *flight, r result) {}
